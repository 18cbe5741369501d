// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

// Which lock guards what, written so that clang's -Wthread-safety checks it. Other compilers skip
// these. https://clang.llvm.org/docs/ThreadSafetyAnalysis.html explains each attribute.
#if defined(__clang__)
#define MOE_THREAD_ANNOTATION(x) __attribute__((x))
#else
#define MOE_THREAD_ANNOTATION(x)
#endif

// A class whose objects are locks, and a class that holds one while it lives.
#define CAPABILITY(name) MOE_THREAD_ANNOTATION(capability(name))
#define SCOPED_CAPABILITY MOE_THREAD_ANNOTATION(scoped_lockable)

// A member that is read and written only under the lock.
#define GUARDED_BY(lock) MOE_THREAD_ANNOTATION(guarded_by(lock))

// A function that is called with the lock held, or without it.
#define REQUIRES(...) MOE_THREAD_ANNOTATION(requires_capability(__VA_ARGS__))
#define EXCLUDES(...) MOE_THREAD_ANNOTATION(locks_excluded(__VA_ARGS__))

// A function that takes the lock, or gives it back.
#define ACQUIRE(...) MOE_THREAD_ANNOTATION(acquire_capability(__VA_ARGS__))
#define RELEASE(...) MOE_THREAD_ANNOTATION(release_capability(__VA_ARGS__))
