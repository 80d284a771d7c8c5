// File systems of the tests' own, mounted for as long as an object lives. This process and its children alone
// see them, and they end with it.
#pragma once

#include "support.hpp"

namespace support {

// NFREEZE_TEST_FILESYSTEMS is set (`make filesystems`): what takes long or needs more packages is tested as
// well.
[[nodiscard]] bool all_file_systems();

// Whether this process may mount. The first call gives it a mount namespace of its own. If not, that is noted
// as skipped.
[[nodiscard]] bool may_mount();
// The same, with Python's FUSE; and with the kernel's automounter.
[[nodiscard]] bool may_fuse();
[[nodiscard]] bool may_automount();

// Something mounted at `where`, or at a directory of its own.
class Mounted {
  public:
    Mounted(const std::string& type, const std::string& source, const std::string& options = "",
            const fs::path& where = {});
    ~Mounted();
    Mounted(const Mounted&) = delete;
    Mounted& operator=(const Mounted&) = delete;
    [[nodiscard]] const fs::path& path() const { return path_; }
    [[nodiscard]] fs::path operator/(const fs::path& name) const { return path_ / name; }

  private:
    std::unique_ptr<TempDir> own_;
    fs::path path_;
};
void unmount(const fs::path& path);

// A file system in a file, made by mkfs with these arguments; `mount` of them are for mounting. Sizes as
// truncate knows them.
class LoopDisk {
  public:
    LoopDisk(const Strings& mkfs, const std::string& size, const Strings& mount = {"mount", "-o", "loop"});
    ~LoopDisk();
    LoopDisk(const LoopDisk&) = delete;
    LoopDisk& operator=(const LoopDisk&) = delete;
    [[nodiscard]] const fs::path& path() const { return path_; }
    [[nodiscard]] fs::path operator/(const fs::path& name) const { return path_ / name; }

  private:
    TempDir dir_;
    fs::path path_;
};

// A directory seen through a file system that has its oddities: the switches of odd_filesystem.py.
class OddFilesystem {
  public:
    explicit OddFilesystem(const Strings& switches, const fs::path& where = {});
    ~OddFilesystem();
    OddFilesystem(const OddFilesystem&) = delete;
    OddFilesystem& operator=(const OddFilesystem&) = delete;
    void die(); // whoever looks at it from now on is told that it is not connected
    [[nodiscard]] const fs::path& path() const { return path_; }
    [[nodiscard]] fs::path operator/(const fs::path& name) const { return path_ / name; }
    [[nodiscard]] fs::path behind() const { return dir_ / "behind"; } // the directory itself

  private:
    TempDir dir_;
    fs::path path_;
    std::unique_ptr<Child> server_;
};

// A place at which `source` is mounted when somebody goes there.
class Automount {
  public:
    Automount(const fs::path& where, const fs::path& source);
    ~Automount();
    Automount(const Automount&) = delete;
    Automount& operator=(const Automount&) = delete;
    [[nodiscard]] bool triggered() const;
    void expire() const;

  private:
    fs::path where_;
    std::unique_ptr<Child> daemon_;
};

// A run of the program with a kernel that does what is rare: the rules of preload/kernel.cpp, each of which
// it must come to.
[[nodiscard]] bool may_preload();
[[nodiscard]] Result with_kernel(RunOptions options, const Strings& rules, const Strings& arguments);

// One with a bound, as ulimit knows it, such as "-n 256".
[[nodiscard]] Result with_limit(const RunOptions& options, const std::string& limit,
                                const Strings& arguments);

// The number that an object of --json has under this name; nothing if it has none.
[[nodiscard]] std::optional<std::uint64_t> json_number(std::string_view text, const std::string& name);

} // namespace support
