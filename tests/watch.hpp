// What the kernel saw a program do to files: the witness for "is not read" and "is renamed into
// place".
#pragma once

#include <sys/inotify.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace support {

struct Event {
    std::string path;   // relative to the watched root
    std::uint32_t mask; // of inotify(7)
};

// Watches a directory and all directories below it.
class Watch {
  public:
    Watch(const std::filesystem::path& root, std::uint32_t mask)
        : fd_(inotify_init1(IN_NONBLOCK | IN_CLOEXEC)) {
        if (fd_ < 0) throw std::runtime_error("test harness: no inotify");
        add(root, "", mask);
        for (const auto& entry : std::filesystem::recursive_directory_iterator(root))
            if (entry.is_directory() && !entry.is_symlink())
                add(entry.path(), std::filesystem::relative(entry.path(), root).string() + "/", mask);
    }
    ~Watch() { close(fd_); }
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;

    // All events so far; those of directories themselves (being listed, say) are left out.
    const std::vector<Event>& events() {
        alignas(inotify_event) char buffer[65536];
        for (ssize_t n; (n = read(fd_, buffer, sizeof buffer)) > 0;)
            for (ssize_t at = 0; at < n;) {
                inotify_event event;
                std::memcpy(&event, buffer + at, sizeof event);
                const char* name = buffer + at + sizeof event;
                if ((event.mask & IN_ISDIR) == 0 && event.len > 0)
                    events_.push_back({prefixes_[event.wd] + name, event.mask});
                at += static_cast<ssize_t>(sizeof event + event.len);
            }
        return events_;
    }
    bool saw(const std::string& path, std::uint32_t mask) {
        for (const Event& event : events())
            if (event.path == path && (event.mask & mask) != 0) return true;
        return false;
    }
    // The paths of all events of this kind, for messages.
    std::string names(std::uint32_t mask) {
        std::string text;
        for (const Event& event : events())
            if ((event.mask & mask) != 0) text += event.path + "\n";
        return text;
    }

  private:
    void add(const std::filesystem::path& dir, const std::string& prefix, std::uint32_t mask) {
        const int watch = inotify_add_watch(fd_, dir.c_str(), mask);
        if (watch < 0) throw std::runtime_error("test harness: cannot watch " + dir.string());
        prefixes_[watch] = prefix;
    }
    int fd_;
    std::map<int, std::string> prefixes_;
    std::vector<Event> events_;
};

} // namespace support
