// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

// app_policy PROGRAM ARGUMENTS: runs a program under a filter of system calls like the one Android
// puts on apps. A call that is not in allowed.h, lines like `SYS_read,`, ends the process by SIGSYS.
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static const unsigned allowed[] = {
#include "allowed.h"
};

enum { COUNT = sizeof allowed / sizeof allowed[0] };

int main(int count, char** words) {
  struct sock_filter filter[5 + 2 * COUNT];
  struct sock_filter* at = filter;
  const struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  const struct sock_filter trap = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
  *at++ = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
  *at++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
  *at++ = trap;
  *at++ = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
  for (int i = 0; i < COUNT; ++i) {
    *at++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed[i], 0, 1);
    *at++ = allow;
  }
  *at++ = trap;
  const struct sock_fprog program = {(unsigned short)(at - filter), filter};
  if (count < 2) {
    fprintf(stderr, "usage: app_policy PROGRAM ARGUMENTS\n");
    return 2;
  }
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
    perror("seccomp");
    return 2;
  }
  execv(words[1], words + 1);
  perror(words[1]);
  return 2;
}
