// Section 7: chunker and compression.

namespace {

std::vector<size_t> cut_all(const Chunker& chunker, View data) {
    std::vector<size_t> lengths;
    for (View rest = data; !rest.empty(); rest = rest.subspan(lengths.back()))
        lengths.push_back(chunker.cut(rest));
    return lengths;
}
/// Where the chunks end, counted from the end of the data: comparable after an insertion.
std::set<size_t> ends_from_the_back(const Chunker& chunker, View data) {
    std::set<size_t> ends;
    size_t at = data.size();
    for (size_t n : cut_all(chunker, data)) ends.insert(at -= n);
    return ends;
}
const Bytes& large_data() {
    static const Bytes data = noise(48 * MiB, 6);
    return data;
}

} // namespace

TEST_CASE("chunker: cut points are the same in every run and release") {
    Chunker chunker(secret_of(noise(32, 1)));
    auto lengths = cut_all(chunker, View(large_data()).first(24 * MiB));
    // Computed by another program, written from the description of the format.
    const std::vector<size_t> golden{2206446, 1099361, 1433647, 322247,  2049801, 1051282, 522102,
                                     1073081, 1206320, 430349,  1495954, 1333983, 1048621, 1050264,
                                     1528282, 2059120, 1145570, 438816,  1226724, 1378359, 1065495};
    REQUIRE(lengths.size() == golden.size());
    for (size_t i = 0; i < golden.size(); ++i) CHECK(lengths[i] == golden[i]);
    CHECK(cut_all(Chunker(secret_of(noise(32, 1))), View(large_data()).first(24 * MiB)) == lengths);
}

TEST_CASE("chunker: no chunk is below the minimum but the last, none above the maximum") {
    Chunker chunker(secret_of(noise(32, 2)));
    auto check = [&](View data) {
        size_t sum = 0;
        auto lengths = cut_all(chunker, data);
        for (size_t i = 0; i < lengths.size(); ++i) {
            if (i + 1 < lengths.size()) CHECK(lengths[i] >= kChunkMin);
            CHECK(lengths[i] <= kChunkMax);
            sum += lengths[i];
        }
        CHECK(sum == data.size());
        return lengths;
    };
    check(large_data());
    auto zeros = check(Bytes(20 * MiB)); // the same byte throughout: a cut at once or never
    for (size_t i = 1; i + 1 < zeros.size(); ++i) CHECK(zeros[i] == zeros[0]);
    for (size_t size : {size_t(1), size_t(63), size_t(64), kChunkMin - 1, kChunkMin}) {
        INFO(size);
        CHECK(check(View(large_data()).first(size)) == std::vector<size_t>{size});
    }
    check(View(large_data()).first(kChunkMin + 1));
    check(View(large_data()).first(kChunkMax));
    check(View(large_data()).first(kChunkMax + 1));
    CHECK(chunker.cut({}) == 0);
}

TEST_CASE("chunker: a cut is certain once the buffer holds the maximum") {
    Chunker chunker(secret_of(noise(32, 3)));
    for (size_t at = 0; at + 8 * MiB < large_data().size(); at += 3 * MiB) {
        View data = View(large_data()).subspan(at);
        CHECK(chunker.cut(data.first(kChunkMax)) == chunker.cut(data.first(8 * MiB)));
    }
}

TEST_CASE("chunker: lengths gather around the average") {
    size_t chunks = 0, at_max = 0, bytes = 0;
    for (uint64_t key = 1; key <= 4; ++key)
        for (size_t n : cut_all(Chunker(secret_of(noise(32, key))), large_data())) {
            ++chunks;
            bytes += n;
            at_max += n == kChunkMax;
        }
    double mean = double(bytes) / double(chunks);
    INFO(chunks, " chunks, mean ", mean, ", ", at_max, " at the maximum");
    CHECK(mean > 0.8 * double(kChunkAvg));
    CHECK(mean < 1.5 * double(kChunkAvg));
    CHECK(at_max * 100 <= chunks);
}

TEST_CASE("chunker: an insertion near the front changes the chunks near it only") {
    Chunker chunker(secret_of(noise(32, 4)));
    View data = View(large_data()).first(32 * MiB);
    auto before = ends_from_the_back(chunker, data);
    for (size_t size : {size_t(1), size_t(10), size_t(5000)}) {
        INFO(size, " bytes inserted");
        Bytes changed(data.begin(), data.end());
        auto inserted = noise(size, 5);
        changed.insert(changed.begin() + 600'000, inserted.begin(), inserted.end());
        auto after = ends_from_the_back(chunker, changed);
        size_t lost = 0;
        for (size_t end : before) lost += !after.contains(end);
        INFO(lost, " of ", before.size(), " cut points lost");
        CHECK(before.size() > 20);
        CHECK(lost <= 4);
        Bytes shorter(data.begin(), data.end());
        shorter.erase(shorter.begin() + 600'000, shorter.begin() + 600'000 + long(size));
        after = ends_from_the_back(chunker, shorter);
        lost = 0;
        for (size_t end : before) lost += !after.contains(end);
        CHECK(lost <= 4);
    }
}

TEST_CASE("chunker: another key cuts elsewhere") {
    View data = View(large_data()).first(32 * MiB);
    auto a = ends_from_the_back(Chunker(secret_of(noise(32, 1))), data),
         b = ends_from_the_back(Chunker(secret_of(noise(32, 2))), data);
    size_t common = 0;
    for (size_t end : a) common += b.contains(end);
    CHECK(common <= 2); // the end itself, which all have in common
    CHECK(a.size() > 20);
}

TEST_CASE("chunker: a tree is cut by names alone, about once in 256 records") {
    Chunker chunker(secret_of(noise(32, 1))), other(secret_of(noise(32, 2)));
    size_t cuts = 0, common = 0;
    for (int i = 0; i < 100'000; ++i) {
        std::string before = text("file-", i), name = text("file-", i + 1);
        bool here = chunker.cut_tree_after(before, name);
        cuts += here;
        common += here && other.cut_tree_after(before, name);
        if (i % 1000 == 0) CHECK(chunker.cut_tree_after(before, name) == here);
    }
    CHECK(cuts > 300);
    CHECK(cuts < 500);
    CHECK(common < 15);
    CHECK_NOTHROW(chunker.cut_tree_after("", ""));
}

TEST_CASE("compression: what goes in comes out") {
    Bytes zeros(3 * MiB), random = noise(3 * MiB, 1), mixed = noise(MiB, 2);
    mixed.resize(2 * MiB, 'x');
    for (const Bytes* raw : {&zeros, &random, &mixed}) CHECK(decompress(frame_of(*raw), raw->size()) == *raw);
    for (size_t size : {size_t(0), size_t(1), size_t(2), size_t(127), size_t(128), size_t(129), size_t(16383),
                        size_t(16384)}) {
        INFO(size);
        CHECK(decompress(frame_of(noise(size, 3)), size) == noise(size, 3));
        CHECK(decompress(frame_of(Bytes(size, 'z')), size) == Bytes(size, 'z'));
    }
    CHECK(frame_of(zeros).size() < 1000);
    CHECK(frame_of(zeros)[0] == uint8_t(Codec::zstd));
    CHECK(frame_of(random).size() <= random.size() + 6); // stored where it does not shrink
    CHECK(frame_of(random)[0] == uint8_t(Codec::stored));
    CHECK(hex(frame_of({})) == "0000");
}

TEST_CASE("compression: a bomb is refused before it goes off") {
    auto bomb = frame_of(Bytes(8 * MiB));
    CHECK(decompress(bomb, 8 * MiB).size() == 8 * MiB);
    CHECK_THROWS_AS(decompress(bomb, 8 * MiB - 1), Corrupt);
    auto frame = [](uint8_t codec, uint64_t raw_length, View packed) {
        Writer w;
        w.u8(codec);
        w.varint(raw_length);
        w.raw(packed);
        return w.take();
    };
    View packed = View(bomb).subspan(5); // behind the codec and a length of four bytes
    REQUIRE(decompress(frame(1, 8 * MiB, packed), kFrameMax).size() == 8 * MiB);
    for (uint64_t lie :
         {uint64_t(0), uint64_t(1), uint64_t(8 * MiB - 1), uint64_t(8 * MiB + 1), uint64_t(kFrameMax)}) {
        INFO("says ", lie, " bytes");
        CHECK_THROWS_AS(decompress(frame(1, lie, packed), kFrameMax), Corrupt);
    }
    CHECK_THROWS_AS(decompress(frame(1, UINT64_MAX, packed), kFrameMax), Corrupt);
    CHECK_THROWS_AS(decompress(frame(0, 5, as_bytes("four")), kFrameMax), Corrupt);
    CHECK_THROWS_AS(decompress(frame(0, 3, as_bytes("four")), kFrameMax), Corrupt);
    CHECK_THROWS_AS(decompress(frame(2, 4, as_bytes("four")), kFrameMax), Corrupt);
    CHECK_THROWS_AS(decompress(frame(255, 4, as_bytes("four")), kFrameMax), Corrupt);
    CHECK_THROWS_AS(decompress(frame(1, 4, as_bytes("four")), kFrameMax), Corrupt);
}

TEST_CASE("compression: a frame cut short anywhere or longer than it was is refused") {
    Bytes raw = bytes_of("some words, some words, some words, some words and some more of these words");
    auto packed = frame_of(raw), stored = frame_of(noise(50, 1));
    REQUIRE(packed[0] == uint8_t(Codec::zstd));
    REQUIRE(stored[0] == uint8_t(Codec::stored));
    for (auto* frame : {&packed, &stored}) {
        check_every_truncation(*frame, [](View v) { decompress(v, kFrameMax); });
        auto longer = *frame;
        longer.push_back(0);
        CHECK_THROWS_AS(decompress(longer, kFrameMax), Corrupt);
    }
    check_mutilations(packed, 2000, [](View v) { decompress(v, KiB); });
}
