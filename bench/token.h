/* What both sides know of a token: its text is ~<seq, 6 digits>-<nanoseconds, 16 digits>~ in whatever frame it travels.
 * The clock is the machine's own, so that the reader can tell how long it was under way. */
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#define TOKEN_BYTES 25
#define TOKEN_EDGE '~'

static inline uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void write_token(char text[TOKEN_BYTES + 1], unsigned seq, uint64_t at_ns) {
  snprintf(text, TOKEN_BYTES + 1, "~%06u-%016llu~", seq % 1000000, (unsigned long long)at_ns);
}

static inline int digits(const char *text, int count, uint64_t *value) {
  *value = 0;
  for (int i = 0; i < count; i++) {
    if (text[i] < '0' || text[i] > '9') return 0;
    *value = *value * 10 + (uint64_t)(text[i] - '0');
  }
  return 1;
}

/* Returns whether these TOKEN_BYTES are a token. */
static inline int read_token(const char *text, uint64_t *seq, uint64_t *at_ns) {
  return text[7] == '-' && text[24] == TOKEN_EDGE && digits(text + 1, 6, seq) && digits(text + 8, 16, at_ns);
}
