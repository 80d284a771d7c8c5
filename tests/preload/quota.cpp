// A quota for OpenSSH's sftp-server, before whose only way to write it stands (LD_PRELOAD): as much may be
// written to files as the number says that lies, as eight bytes of this machine's order, in the file that
// NFREEZE_TEST_QUOTA names. It goes down with each write, of all processes together, and nothing gives it
// back.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>

namespace {

std::atomic<long>* left() {
    const char* name = std::getenv("NFREEZE_TEST_QUOTA");
    const int fd = name != nullptr ? open(name, O_RDWR | O_CLOEXEC) : -1;
    void* at = fd >= 0 ? mmap(nullptr, sizeof(long), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (at == MAP_FAILED) std::abort(); // a test without a quota would prove nothing
    close(fd);
    return static_cast<std::atomic<long>*>(at);
}

bool allows(int fd, size_t size) {
    struct stat st {};
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) return true;
    static std::atomic<long>* const quota = left();
    const long wanted = static_cast<long>(size);
    if (quota->fetch_sub(wanted) >= wanted) return true;
    quota->fetch_add(wanted);
    errno = EDQUOT;
    return false;
}

} // namespace

extern "C" ssize_t write(int fd, const void* data, size_t size) {
    static const auto real =
        reinterpret_cast<ssize_t (*)(int, const void*, size_t)>(dlsym(RTLD_NEXT, "write"));
    return allows(fd, size) ? real(fd, data, size) : -1;
}
