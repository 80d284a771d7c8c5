// Directory trees to back up, and their comparison by tools that share no code with nfreeze.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace support {

// A small fast generator with its own definition, so that a seed means the same tree everywhere.
class Random {
  public:
    explicit Random(std::uint64_t seed) : state_(seed) {}
    std::uint64_t next();
    std::uint64_t below(std::uint64_t limit) { return next() % limit; }

  private:
    std::uint64_t state_;
};

[[nodiscard]] std::string random_bytes(std::size_t size, std::uint64_t seed);
// In blocks: the peak memory of a child counts that of this process before exec.
void write_random_file(const std::filesystem::path& path, std::uint64_t size, std::uint64_t seed);

// Everything a tree may hold that is not a plain file of plain bytes. What the machine does not
// allow (device nodes, xattrs, ACLs) is left out with a note.
struct AwkwardTree {
    explicit AwkwardTree(const std::filesystem::path& root);
    std::vector<std::string> sparse_files; // relative to the root
    std::vector<std::string> odd_names;    // of regular files, relative to the root
    std::string deep_file;                 // longer than PATH_MAX
};

// A file whose path below `root` is longer than PATH_MAX. Returns that path.
std::string make_deep_file(const std::filesystem::path& root);
void make_sparse_file(const std::filesystem::path& path);
void set_mtime(const std::filesystem::path& path, std::int64_t seconds, long nanoseconds);
[[nodiscard]] timespec mtime_of(const std::filesystem::path& path);

// The same seed makes the same tree and the same changes to it.
void make_random_tree(const std::filesystem::path& root, std::uint64_t seed, std::size_t files,
                      std::size_t largest);
void mutate_tree(const std::filesystem::path& root, std::uint64_t seed, std::size_t changes);

// What differs between two trees, by rsync, by find and by a walk over descriptors (which reaches
// where the other two cannot); empty if nothing does. Sockets are left out on both sides.
[[nodiscard]] std::string compare(const std::filesystem::path& a, const std::filesystem::path& b);
// The same by the walk alone, without owners: for restores by an ordinary account.
[[nodiscard]] std::string compare_without_owners(const std::filesystem::path& a,
                                                 const std::filesystem::path& b);

} // namespace support
