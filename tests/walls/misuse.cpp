// What must not compile. Each line that ends in a comment with WALL is refused by the compiler, and no other
// line is: scenarios_walls.cpp compares. Nothing of this is ever linked.
// clang-format off
#define NFREEZE_NO_MAIN
#include "../../nfreeze.cpp"

namespace {

void nothing_leaves_that_was_not_sealed(Store& store, const Bytes& plain, const Name& name, const Secret& secret) {
    store.create(plain);                                       // WALL plaintext
    store.create(Foreign(plain));                              // WALL what another server gave
    store.create(Sealed());                                    // WALL an object of nothing
    store.create({name, plain});                               // WALL an object that somebody put together
    store.create(Keys::sealed(Name::packs, 0, plain));         // WALL what only those who seal may say
    store.create(secret.view());                               // WALL a key
    Sealed copy = Keys(secret).seal_master(secret, secret, {}, 0, "");
    copy.bytes()[0] = 1;                                       // WALL a change behind the seal
    copy.name().hash = Hash{};                                 // WALL another name for it
    copy.bytes_ = plain;                                       // WALL other bytes for it
}

void no_name_of_a_file_goes_to_a_server(Store& store, const std::string& file) {
    store.remove(file);                                        // WALL
    (void)store.read(file, 0, 1);                              // WALL
    store.rename(file, file);                                  // WALL
    store.make_directory(file);                                // WALL
    (void)store.list(file);                                    // WALL
    (void)store.list_all(file);                                // WALL
    (void)Name{Name::packs, file};                             // WALL
}

void nothing_is_parsed_before_it_is_authenticated(Repository& repo, const Foreign& f, const PackInfo& pack) {
    (void)Reader(f, "it");                                     // WALL
    (void)decode_snapshot(f);                                  // WALL
    (void)decompress(f, 1);                                    // WALL
    (void)sha256(f);                                           // WALL
    (void)View(f);                                             // WALL
    (void)f.bytes_;                                            // WALL
    (void)f[0];                                                // WALL
    (void)Reader(read_pack(repo, pack), "it");                 // WALL
    RecordSet().add(repo.store.read(pack_name(pack.name), 0, 1)); // WALL
}

void nobody_sees_the_keys(const Repository& repo) {
    (void)repo.keys.pack_;                                     // WALL
    (void)repo.keys.index_;                                    // WALL
    (void)repo.keys.id_;                                       // WALL
    (void)repo.keys.aead(kPackLabel, View());                  // WALL
}

} // namespace
