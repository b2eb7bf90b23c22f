/* Preloaded into inference workers, so that one dies of what a test chooses: of a request to score POISON_ROWS rows, or of a
 * model of POISON_BYTES bytes. POISON = abort | hang.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LOAD = 1, RUN = 3 };

static int is(const char *name, uint64_t n) {
  const char *value = getenv(name);
  return value && strtoull(value, NULL, 10) == n;
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
  ssize_t (*real)(int, struct msghdr *, int) = (ssize_t(*)(int, struct msghdr *, int))dlsym(RTLD_NEXT, "recvmsg");
  ssize_t n = real(fd, message, flags);
  if (n < 24) return n;
  const unsigned char *head = message->msg_iov[0].iov_base;
  uint64_t a;
  memcpy(&a, head + 8, sizeof a);
  if ((head[0] == RUN && is("POISON_ROWS", a)) || (head[0] == LOAD && is("POISON_BYTES", a))) {
    const char *how = getenv("POISON");
    if (how && !strcmp(how, "hang")) sleep(600);
    abort();
  }
  return n;
}
