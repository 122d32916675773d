/* Many readers of token streams at once, which miss nothing: every token's place and delay are checked.
 *
 *   load streams HOST PORT PATH BODY COUNT TOKENS PER_SECOND     COUNT streams, each begun by a POST of its own
 *   load subscribers HOST PORT PATH BODY COUNT TOKENS PER_SECOND  one run begun by a POST, and COUNT readers of its
 *                                                                 `events_url`
 *
 * Readers come PER_SECOND and all stay to the end. Prints JSON, a line each time: "open" when every reader has had its
 * first token, "closing" when the first one has had its last, and "over" with what was seen. Between the first two only
 * tokens flow, so what the relay spends there is the cost of tokens alone. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "token.h"

#define MAX_FILES 65536
#define READ_BYTES 65536
#define SILENCE_MS 60000 /* then it is given up */

typedef struct {
  int fd, asked, status, carried;
  uint64_t begun_ns, tokens, next_seq;
  char carry[TOKEN_BYTES];
} Reader;

typedef struct {
  uint32_t *us;
  size_t count, room;
} Times;

static Reader *readers[MAX_FILES];
static Times delays, firsts;
static uint64_t tokens, lost, doubled;
static long expected, done, failed, had_first;
static int poller, closing;
static struct sockaddr_in target;
static char request[16384];

static void note(Times *times, uint64_t ns) {
  if (times->count == times->room) times->us = realloc(times->us, sizeof *times->us * (times->room = times->room * 2 + 4096));
  times->us[times->count++] = (uint32_t)(ns / 1000);
}

static int by_size(const void *left, const void *right) {
  uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
  return a < b ? -1 : a > b;
}

static double percentile_ms(Times *times, double share) {
  return times->count ? times->us[(size_t)(share * (double)(times->count - 1))] / 1000.0 : 0;
}

static void say(const char *at) {
  printf("{\"at\":\"%s\",\"tokens\":%llu}\n", at, (unsigned long long)tokens);
  fflush(stdout);
}

static void say_over(uint64_t begun_ns) {
  qsort(delays.us, delays.count, sizeof *delays.us, by_size);
  qsort(firsts.us, firsts.count, sizeof *firsts.us, by_size);
  printf("{\"at\":\"over\",\"tokens\":%llu,\"done\":%ld,\"failed\":%ld,\"lost\":%llu,\"doubled\":%llu,\"seconds\":%.2f,"
         "\"first_ms\":{\"p50\":%.3f,\"p99\":%.3f},\"delay_ms\":{\"p50\":%.3f,\"p99\":%.3f}}\n",
         (unsigned long long)tokens, done, failed, (unsigned long long)lost, (unsigned long long)doubled,
         (double)(now_ns() - begun_ns) / 1e9, percentile_ms(&firsts, .5), percentile_ms(&firsts, .99),
         percentile_ms(&delays, .5), percentile_ms(&delays, .99));
}

/* -- reading -- */

static void take_token(Reader *reader, uint64_t seq, uint64_t sent_ns, uint64_t now) {
  if (seq < reader->next_seq) doubled++;
  else lost += seq - reader->next_seq, reader->next_seq = seq + 1;
  note(&delays, now - sent_ns);
  tokens++;
  if (!reader->tokens++) {
    note(&firsts, now - reader->begun_ns);
    had_first++;
  }
  if (reader->tokens == (uint64_t)expected && !closing) closing = 1, say("closing");
}

static void take(Reader *reader, char *data, size_t size) {
  char *at = data, *end = data + size;
  uint64_t now = now_ns(), seq, sent_ns;
  if (!reader->status && size >= 12) reader->status = atoi(data + 9);
  while ((at = memchr(at, TOKEN_EDGE, (size_t)(end - at))) && end - at >= TOKEN_BYTES) {
    if (read_token(at, &seq, &sent_ns)) {
      take_token(reader, seq, sent_ns, now);
      at += TOKEN_BYTES;
    } else {
      at++;
    }
  }
  reader->carried = at ? (int)(end - at) : 0; /* a token that was cut */
  if (reader->carried) memmove(reader->carry, at, (size_t)reader->carried);
}

static void leave(Reader *reader) {
  int whole = reader->status == 200 && reader->tokens == (uint64_t)expected;
  if (whole) done++;
  else failed++;
  readers[reader->fd] = NULL;
  close(reader->fd);
  free(reader);
}

static void receive(Reader *reader) {
  static char data[TOKEN_BYTES + READ_BYTES];
  for (;;) {
    memcpy(data, reader->carry, (size_t)reader->carried);
    ssize_t size = read(reader->fd, data + reader->carried, READ_BYTES);
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) return leave(reader);
    take(reader, data, (size_t)(reader->carried + size));
    if (size < READ_BYTES) return; /* poll tells of more */
  }
}

static void begin(void) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (fd < 0 || fd >= MAX_FILES) {
    failed++;
    if (fd >= 0) close(fd);
    return;
  }
  Reader *reader = readers[fd] = calloc(1, sizeof *reader);
  reader->fd = fd;
  reader->begun_ns = now_ns();
  struct epoll_event event = {EPOLLIN | EPOLLOUT, {.fd = fd}};
  epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
  connect(fd, (struct sockaddr *)&target, sizeof target);
}

static void ask(Reader *reader) {
  struct epoll_event event = {EPOLLIN, {.fd = reader->fd}};
  epoll_ctl(poller, EPOLL_CTL_MOD, reader->fd, &event);
  reader->asked = 1;
  if (write(reader->fd, request, strlen(request)) != (ssize_t)strlen(request)) leave(reader);
}

static void read_all(long count, double per_second) {
  struct epoll_event events[512];
  uint64_t begun_ns = now_ns(), heard_ns = begun_ns;
  long started = 0;
  int open = 0;
  while (done + failed < count) {
    uint64_t now = now_ns();
    while (started < count && (double)started <= (double)(now - begun_ns) / 1e9 * per_second) started++, begin();
    int ready = epoll_wait(poller, events, 512, started < count ? 1 : 1000);
    for (int i = 0; i < ready; i++) {
      Reader *reader = readers[events[i].data.fd];
      if (reader && !reader->asked) ask(reader);
      else if (reader) receive(reader);
    }
    if (ready) heard_ns = now_ns();
    if (!open && had_first == count && !closing) open = 1, say("open");
    if (now_ns() - heard_ns > SILENCE_MS * 1000000ull) {
      failed = count - done;
      break;
    }
  }
  say_over(begun_ns);
}

/* -- requests -- */

static void write_request(const char *method, const char *path, const char *body, const char *host) {
  snprintf(request, sizeof request,
           "%s %s HTTP/1.1\r\nHost: %s\r\nAccept: text/event-stream\r\nContent-Type: application/json\r\n"
           "Authorization: Bearer sk-bench\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
           method, path, host, strlen(body), body);
}

/* Begins a run; returns the path of its events. */
static const char *begin_run(void) {
  static char answer[8192];
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  ssize_t size, got = 0;
  if (connect(fd, (struct sockaddr *)&target, sizeof target) || write(fd, request, strlen(request)) < 0) exit(1);
  while ((size = read(fd, answer + got, sizeof answer - 1 - (size_t)got)) > 0) got += size;
  close(fd);
  answer[got] = 0;
  char *path = strstr(answer, "\"events_url\":\"");
  if (!path || !strchr(path + 14, '"')) {
    fprintf(stderr, "no run was begun: %s\n", answer);
    exit(1);
  }
  *strchr(path + 14, '"') = 0;
  return path + 14;
}

int main(int count, char **words) {
  if (count != 9) return fprintf(stderr, "usage: see the head of load.c\n"), 2;
  signal(SIGPIPE, SIG_IGN);
  struct rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  target.sin_family = AF_INET;
  target.sin_port = htons((uint16_t)atoi(words[3]));
  inet_pton(AF_INET, words[2], &target.sin_addr);
  poller = epoll_create1(0);
  expected = atol(words[7]);
  write_request("POST", words[4], words[5], words[2]);
  if (!strcmp(words[1], "subscribers")) write_request("GET", begin_run(), "", words[2]);
  read_all(atol(words[6]), atof(words[8]));
  return failed || lost || doubled;
}
