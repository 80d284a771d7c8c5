// Whole runs of the program over repositories that are larger than any disk here: an index that lists them,
// made with the right key, and packs with nothing in them but their size.

TEST_SUITE_BEGIN("alone"); // memory and round trips are counted
TEST_CASE("large: what a repository of a terabyte costs a run that has little to do: so many bytes, round "
          "trips and megabytes of memory") {
    const bool slow = support::slow_tests();
    const uint64_t packs = slow ? 62'500 : 6'250; // of 16 MiB, each of 16 chunks
    support::Proxy proxy(support::shared_sshd().port());
    support::Site site(support::shared_sshd(), proxy.port());
    support::write_file(site.src / "file", "content\n");
    site.init_or_fail();
    site.backup_or_fail();
    {
        LocalStore store(site.repo.string());
        auto repo = Repository::open(store, [] { return Secret(std::string_view(support::passphrase)); });
        Writer records;
        for (uint64_t n = 1; n <= packs; ++n) {
            PackInfo p;
            p.name = hash_of(n);
            p.salt = noise_array<32>(packs + n);
            p.size = 16 * MiB;
            for (uint64_t f = 0; f < 4; ++f) {
                p.table.push_back({Kind::data, uint32_t(3 * MiB), {}});
                for (uint64_t c = 0; c < 4; ++c)
                    p.table.back().chunks.push_back({chunk_id(n * 16 + f * 4 + c), uint32_t(MiB)});
            }
            put_record(records, Record::pack_added, encode_pack(p));
            auto path = site.repo / object_name(Name::packs, p.name);
            support::write_file(path, "");
            support::fs::resize_file(path, p.size); // a hole
            if (n % 3000 == 0 || n == packs) write_segment(*repo, records.take());
        }
    }
    support::write_file(site.src / "file", "other content\n");
    proxy.round_trips = 0;
    proxy.downstream = 0;
    proxy.delay_ms = slow ? 25 : 5;
    auto result = site.backup();
    REQUIRE_EXIT(result, 0);
    auto down = double(proxy.downstream), chunks = double(16 * packs);
    if (slow)
        MESSAGE(packs, " packs, ", chunks, " chunks: ", down / 1e6, " MB down, ", proxy.round_trips.load(),
                " round trips, ", result.seconds, " s at ", 2 * proxy.delay_ms.load(), " ms, ",
                result.peak_kib / 1024, " MiB of memory");
    CHECK(down < 32 * chunks + 300 * double(packs) +
                     1e6); // its id, length and share of a pack's record; names in a listing
    CHECK(proxy.round_trips < int(packs / 100) + 60); // OpenSSH lists a hundred names in one
    CHECK(result.peak_kib * 1024 < 120 * double(MiB) + 250 * chunks);
}
TEST_SUITE_END();
