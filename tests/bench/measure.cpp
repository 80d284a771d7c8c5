// Runs a command and says what it took.
//
//     nfreeze_bench_measure FILE COMMAND...
//
// writes to FILE: wall seconds, processor seconds, and the largest resident set in KiB of any one
// process. Unlike time(1) it counts the processes too that the command leaves to themselves: restic
// does not wait for its ssh. The exit code is the command's.
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>

namespace {

double seconds(const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
}

pid_t start(char** command) {
    const pid_t pid = fork();
    if (pid != 0) return pid;
    execvp(command[0], command);
    std::fprintf(stderr, "%s: %s\n", command[0], std::strerror(errno));
    _exit(127);
}

int wait_for(pid_t pid) {
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// Those that were left behind have become our children.
void wait_for_the_rest() {
    while (wait(nullptr) > 0 || errno == EINTR) {
    }
}

} // namespace

int main(int argc, char** argv) {
    if (argc < 3) {
        std::fputs("usage: nfreeze_bench_measure FILE COMMAND...\n", stderr);
        return 2;
    }
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    const auto begin = std::chrono::steady_clock::now();
    const pid_t pid = start(argv + 2);
    if (pid < 0) {
        std::perror("fork");
        return 1;
    }
    const int code = wait_for(pid);
    const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - begin;
    wait_for_the_rest();
    rusage used{};
    getrusage(RUSAGE_CHILDREN, &used);
    std::FILE* file = std::fopen(argv[1], "w");
    if (file == nullptr) {
        std::perror(argv[1]);
        return 1;
    }
    std::fprintf(file, "%.6f %.6f %ld\n", wall.count(), seconds(used.ru_utime) + seconds(used.ru_stime),
                 used.ru_maxrss);
    std::fclose(file);
    return code;
}
