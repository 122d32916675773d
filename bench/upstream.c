/* An LLM API that only streams: OpenAI's chunks on any path that ends in /chat/completions, Dify's events on
 * /chat-messages, at an exact pace, for thousands of clients at once.
 *
 *   upstream PORT
 *   curl -X PUT localhost:PORT/plan/<tokens>/<tokens a second>    what the streams that begin from now on do
 *   curl localhost:PORT/calls                                     how many streams were begun
 *
 * One thread, one epoll, and a heap of the streams by the time of their next token: it takes a few microseconds a token,
 * so that what is measured beside it is hardly disturbed. */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "token.h"

#define MAX_FILES 65536
#define REQUEST_BYTES 32768
#define OUT_BYTES 2048

typedef struct {
  int fd, heap_at; /* heap_at -1: no stream runs */
  int dify, closing;
  unsigned sent, tokens;
  uint64_t due_ns, pause_ns;
  int in_bytes, out_bytes, out_done;
  char *in; /* an unfinished request */
  char out[OUT_BYTES];
} Client;

static Client *clients[MAX_FILES];
static Client *heap[MAX_FILES];
static int streams, poller;
static unsigned work_tokens = 200;
static double work_rate = 50;
static long calls;

/* -- the heap: heap[0] is due first -- */

static void place(Client *client, int at) {
  heap[at] = client;
  client->heap_at = at;
}

static void sift(int at) {
  Client *client = heap[at];
  for (; at && heap[(at - 1) / 2]->due_ns > client->due_ns; at = (at - 1) / 2) place(heap[(at - 1) / 2], at);
  for (int child; (child = 2 * at + 1) < streams; at = child) {
    if (child + 1 < streams && heap[child + 1]->due_ns < heap[child]->due_ns) child++;
    if (heap[child]->due_ns >= client->due_ns) break;
    place(heap[child], at);
  }
  place(client, at);
}

static void heap_add(Client *client) {
  place(client, streams++);
  sift(client->heap_at);
}

static void heap_remove(Client *client) {
  int at = client->heap_at;
  if (at < 0) return;
  client->heap_at = -1;
  Client *last = heap[--streams];
  if (last == client) return;
  place(last, at);
  sift(at);
}

/* -- writing -- */

static void poll_for(Client *client, uint32_t events, int how) {
  struct epoll_event event = {events, {.fd = client->fd}};
  epoll_ctl(poller, how, client->fd, &event);
}

static void hang_up(Client *client) {
  heap_remove(client);
  clients[client->fd] = NULL;
  close(client->fd);
  free(client->in);
  free(client);
}

/* Returns 1 when all is written, 0 when the rest waits, -1 when the client has gone. */
static int flush(Client *client) {
  while (client->out_done < client->out_bytes) {
    ssize_t size = write(client->fd, client->out + client->out_done, (size_t)(client->out_bytes - client->out_done));
    if (size < 0 && errno == EAGAIN) {
      poll_for(client, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
      return 0;
    }
    if (size < 0) {
      hang_up(client);
      return -1;
    }
    client->out_done += (int)size;
  }
  client->out_bytes = client->out_done = 0;
  return 1;
}

static void put(Client *client, const char *text) {
  client->out_bytes += snprintf(client->out + client->out_bytes, (size_t)(OUT_BYTES - client->out_bytes), "%s", text);
}

static void put_chunk(Client *client, const char *text) {
  char size[16];
  snprintf(size, sizeof size, "%zx\r\n", strlen(text));
  put(client, size);
  put(client, text);
  put(client, "\r\n");
}

static void put_token(Client *client) {
  char text[TOKEN_BYTES + 1], frame[512];
  write_token(text, client->sent++, now_ns());
  snprintf(frame, sizeof frame,
           client->dify
               ? "data: {\"event\":\"message\",\"task_id\":\"0b7e1a52-94c5-4f6c-8d5e-2f1f3f0a9c11\",\"id\":\"6c1d8f0e-5a43-"
                 "4a0e-9a39-0d4c7e2b8f21\",\"conversation_id\":\"f2a4c6e8-1b3d-4f5a-8c7e-9d0b1a2c3e4f\",\"answer\":\"%s\","
                 "\"created_at\":1760000000}\n\n"
               : "data: {\"id\":\"chatcmpl-5c2b9e7f01\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,"
                 "\"model\":\"bench\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"%s\"},\"logprobs\":null,"
                 "\"finish_reason\":null}]}\n\n",
           text);
  put_chunk(client, frame);
}

static void put_end(Client *client) {
  put_chunk(client, client->dify ? "data: {\"event\":\"message_end\",\"task_id\":\"0b7e1a52-94c5-4f6c-8d5e-2f1f3f0a9c11\","
                                   "\"id\":\"6c1d8f0e-5a43-4a0e-9a39-0d4c7e2b8f21\",\"conversation_id\":\"f2a4c6e8-1b3d-"
                                   "4f5a-8c7e-9d0b1a2c3e4f\",\"metadata\":{\"usage\":{\"prompt_tokens\":9,"
                                   "\"completion_tokens\":200,\"total_tokens\":209}}}\n\n"
                                 : "data: {\"id\":\"chatcmpl-5c2b9e7f01\",\"object\":\"chat.completion.chunk\",\"created\":"
                                   "1760000000,\"model\":\"bench\",\"choices\":[{\"index\":0,\"delta\":{},"
                                   "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":200,"
                                   "\"total_tokens\":209}}\n\ndata: [DONE]\n\n");
  put(client, "0\r\n\r\n");
}

/* The next token of the stream that is due first, or its end. */
static void step(Client *client) {
  int written = client->out_bytes ? flush(client) : 1;
  if (written < 0) return;
  if (!written) { /* the reader is behind: what is due waits */
    client->due_ns = now_ns() + 1000000;
    sift(client->heap_at);
    return;
  }
  if (client->sent < client->tokens) {
    put_token(client);
    client->due_ns += client->pause_ns;
    sift(client->heap_at);
    flush(client);
    return;
  }
  put_end(client);
  heap_remove(client);
  if (flush(client) == 1 && client->closing) hang_up(client);
}

/* -- requests -- */

static void answer_json(Client *client, const char *body) {
  char head[128];
  snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", strlen(body));
  put(client, head);
  put(client, body);
  flush(client);
}

static void begin_stream(Client *client) {
  calls++;
  client->sent = 0;
  client->tokens = work_tokens;
  client->pause_ns = (uint64_t)(1e9 / work_rate);
  client->due_ns = now_ns();
  put(client, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
  heap_add(client);
  flush(client);
}

static void serve(Client *client, const char *request, const char *head_end) {
  char text[64];
  const char *path_end = strstr(request, " HTTP/");
  const char *asks_close = strcasestr(request, "connection: close");
  client->closing = asks_close && asks_close < head_end;
  if (!path_end) return hang_up(client);
  client->dify = path_end - request >= 14 && !strncmp(path_end - 14, "/chat-messages", 14);
  if (!strncmp(request, "POST ", 5) &&
      (client->dify || (path_end - request >= 17 && !strncmp(path_end - 17, "/chat/completions", 17)))) {
    begin_stream(client);
  } else if (!strncmp(request, "GET /calls", 10)) {
    snprintf(text, sizeof text, "%ld", calls);
    answer_json(client, text);
  } else {
    sscanf(request, "PUT /plan/%u/%lf", &work_tokens, &work_rate);
    answer_json(client, "{}"); /* Dify's /parameters and the like: nothing to tell */
  }
}

static void receive(Client *client) {
  if (!client->in) client->in = malloc(REQUEST_BYTES);
  ssize_t size = read(client->fd, client->in + client->in_bytes, (size_t)(REQUEST_BYTES - 1 - client->in_bytes));
  if (size < 0 && errno == EAGAIN) return;
  if (size <= 0) return hang_up(client);
  client->in_bytes += (int)size;
  client->in[client->in_bytes] = 0;
  char *head_end = strstr(client->in, "\r\n\r\n");
  if (!head_end) return;
  char *length = strcasestr(client->in, "\r\ncontent-length:");
  long body_bytes = length && length < head_end ? atol(length + 17) : 0;
  if (client->in_bytes < head_end + 4 - client->in + body_bytes) return;
  char *request = client->in;
  client->in = NULL; /* 32 KiB for each open stream would crowd out what is measured */
  client->in_bytes = 0;
  serve(client, request, head_end);
  free(request);
}

static void welcome(int listener) {
  int fd, on = 1;
  while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
    if (fd >= MAX_FILES) {
      close(fd);
      continue;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    Client *client = clients[fd] = calloc(1, sizeof *client);
    client->fd = fd;
    client->heap_at = -1;
    poll_for(client, EPOLLIN, EPOLL_CTL_ADD);
  }
}

static int wait_ms(void) {
  if (!streams) return 1000;
  uint64_t now = now_ns(), due = heap[0]->due_ns;
  return due <= now ? 0 : (int)((due - now + 999999) / 1000000);
}

int main(int count, char **words) {
  int port = count == 2 ? atoi(words[1]) : 0, on = 1;
  if (!port) return fprintf(stderr, "usage: upstream PORT\n"), 2;
  signal(SIGPIPE, SIG_IGN);
  struct rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
  if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 4096)) return perror("upstream"), 1;
  poller = epoll_create1(0);
  struct epoll_event event = {EPOLLIN, {.fd = listener}}, events[512];
  epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
  for (;;) {
    int ready = epoll_wait(poller, events, 512, wait_ms());
    for (int i = 0; i < ready; i++) {
      if (events[i].data.fd == listener) {
        welcome(listener);
        continue;
      }
      Client *client = clients[events[i].data.fd];
      if (client && events[i].events & EPOLLOUT) {
        int written = flush(client);
        if (written == 1) poll_for(client, EPOLLIN, EPOLL_CTL_MOD);
        if (written == 1 && client->closing && client->heap_at < 0) hang_up(client), client = NULL;
        if (written < 0) client = NULL;
      }
      if (client && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive(client);
    }
    uint64_t now = now_ns();
    while (streams && heap[0]->due_ns <= now) step(heap[0]);
  }
}
