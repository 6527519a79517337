#pragma once
// Where every thread of this process is, for the log of one that hangs.

namespace anneal {

// The last line that WriteThreadStacks writes, by which whoever reads a log knows that all is
// there.
inline constexpr char kEndOfThreadStacks[] = "end of stacks";

// Loads what unwinding needs and takes SIGUSR2 for its own. Call once, early: later a lock that
// loading needs may be held by the thread that hangs.
void PrepareThreadStacks();

// Writes the stack of each thread to `fd`, the calling thread's left out and the process's first
// thread last:
//
//   thread 4711 anneal-trainer, state S:
//     anneal::trainer::Trainer::Run() (libanneal_trainer_core.so+0x1f3a20)
//
// Every thread is interrupted and writes down its own addresses, which no other thread could know;
// names are looked up afterwards, here. One that does not answer (it blocks the signal, or sits in
// the kernel) is named with its state (proc(5): D is waiting for a disk or device) and without a
// stack. Takes none of the loader's locks, which the thread that hangs may hold, and ends within a
// few seconds. A call that a signal interrupts and that is not restarted fails with EINTR in the
// thread that made it. Thread-safe: a second caller waits.
void WriteThreadStacks(int fd);

}  // namespace anneal
