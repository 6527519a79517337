#pragma once
// Who may read the files that a program makes.

namespace anneal {

// From now on files and folders that this process, or a child of it, makes are closed to all
// accounts but its own and its group, whatever the umask was; one that is stricter stays. For the
// start of a program: other threads make files under it, too.
void KeepOthersOut();

}  // namespace anneal
