// Section 4: encoding.

namespace {

constexpr uint64_t kEdges[] = {0,
                               1,
                               0x7f,
                               0x80,
                               0xff,
                               0x3fff,
                               0x4000,
                               0x7fffffff,
                               0x80000000,
                               0xffffffff,
                               0x100000000,
                               0x7fffffffffffffff,
                               0x8000000000000000,
                               0xfffffffffffffffe,
                               0xffffffffffffffff};

Reader reader_of(const Bytes& b) { return {View(b), "a test"}; }

} // namespace

TEST_CASE("encoding: numbers have the bytes that the format says") {
    auto written = [](auto f) {
        Writer w;
        f(w);
        return hex(w.view());
    };
    CHECK(written([](Writer& w) { w.u8(0xab); }) == "ab");
    CHECK(written([](Writer& w) { w.u32(0x01020304); }) == "04030201");
    CHECK(written([](Writer& w) { w.u64(0x0102030405060708); }) == "0807060504030201");
    CHECK(written([](Writer& w) { w.varint(0); }) == "00");
    CHECK(written([](Writer& w) { w.varint(127); }) == "7f");
    CHECK(written([](Writer& w) { w.varint(300); }) == "ac02");
    CHECK(written([](Writer& w) { w.varint(UINT64_MAX); }) == "ffffffffffffffffff01");
    CHECK(written([](Writer& w) { w.zigzag(0); }) == "00");
    CHECK(written([](Writer& w) { w.zigzag(-1); }) == "01");
    CHECK(written([](Writer& w) { w.zigzag(1); }) == "02");
    CHECK(written([](Writer& w) { w.zigzag(INT64_MIN); }) == "ffffffffffffffffff01");
    CHECK(written([](Writer& w) { w.string("abc"); }) == "03616263");
    CHECK(written([](Writer& w) { w.bytes({}); }) == "00");
}

TEST_CASE("encoding: every type comes back as it was") {
    Writer w;
    for (uint64_t v : kEdges) {
        w.u8(uint8_t(v));
        w.u32(uint32_t(v));
        w.u64(v);
        w.varint(v);
        w.zigzag(int64_t(v));
        w.zigzag(-int64_t(v >> 1));
    }
    w.raw(from_hex("00ff"));
    w.bytes(noise(300, 4));
    w.string(std::string_view("nul\0inside", 10));
    w.string("");
    w.raw(chunk_id(4));
    size_t size = w.size();
    Bytes bytes = w.take();
    CHECK(bytes.size() == size);
    CHECK(w.size() == 0);
    Reader r = reader_of(bytes);
    CHECK(r.left() == size);
    for (uint64_t v : kEdges) {
        INFO(v);
        CHECK(r.u8() == uint8_t(v));
        CHECK(r.u32() == uint32_t(v));
        CHECK(r.u64() == v);
        CHECK(r.varint() == v);
        CHECK(r.zigzag() == int64_t(v));
        CHECK(r.zigzag() == -int64_t(v >> 1));
    }
    CHECK(hex(r.raw(2)) == "00ff");
    CHECK(string_of(r.bytes(300)) == string_of(noise(300, 4)));
    CHECK(r.string(10) == std::string("nul\0inside", 10));
    CHECK(r.string(0).empty());
    CHECK_FALSE(r.empty());
    CHECK(r.array<16>() == chunk_id(4));
    CHECK(r.empty());
    CHECK_NOTHROW(r.end());
}

TEST_CASE("encoding: a composite cut short anywhere is refused") {
    Writer w;
    w.u8(1);
    w.u32(2);
    w.u64(3);
    w.varint(1u << 20);
    w.zigzag(-(1 << 20));
    w.string("string");
    w.bytes(noise(200, 1));
    w.raw(chunk_id(1));
    w.varint(UINT64_MAX);
    check_every_truncation(w.take(), [](View v) {
        Reader r(v, "a test");
        r.u8();
        r.u32();
        r.u64();
        r.varint();
        r.zigzag();
        r.string(100);
        r.bytes(1000);
        r.array<16>();
        r.varint();
        r.end();
    });
}

TEST_CASE("encoding: a varint cut short or too large is refused") {
    for (std::string_view bad :
         {"", "80", "ffffff", "ffffffffffffffffff02", "ffffffffffffffffff7f", "ffffffffffffffffffff01",
          "8080808080808080808000", "80808080808080808080"}) {
        INFO(std::string(bad));
        auto bytes = from_hex(bad);
        CHECK_THROWS_AS(reader_of(bytes).varint(), Corrupt);
        CHECK_THROWS_AS(reader_of(bytes).zigzag(), Corrupt);
        CHECK_THROWS_AS(reader_of(bytes).count(UINT64_MAX), Corrupt);
    }
}

TEST_CASE("encoding: a length is believed up to its limit only") {
    auto five = from_hex("050102030405"), huge = from_hex("ffffffffffffffffff01aa");
    CHECK(reader_of(five).count(5) == 5);
    CHECK_THROWS_AS(reader_of(five).count(4), Corrupt);
    CHECK(reader_of(five).bytes(5).size() == 5);
    CHECK_THROWS_AS(reader_of(five).bytes(4), Corrupt);
    CHECK_THROWS_AS(reader_of(five).string(4), Corrupt);
    CHECK_THROWS_AS(reader_of(huge).bytes(SIZE_MAX), Corrupt);
    CHECK_THROWS_AS(reader_of(huge).string(SIZE_MAX), Corrupt);
    CHECK_THROWS_AS(reader_of(huge).raw(SIZE_MAX), Corrupt);
}

TEST_CASE("encoding: bytes behind the end are an error that names what holds them") {
    auto bytes = from_hex("0102");
    Reader r = reader_of(bytes);
    r.u8();
    CHECK(complaint([&] { r.end(); }) == "a test holds bytes behind its end");
    CHECK(complaint([&] { r.u32(); }) == "a test holds an early end");
    CHECK(r.u8() == 2); // a refused read takes nothing
}

TEST_CASE("encoding: a hash is 64 lower-case digits and nothing else") {
    Hash h = hash_of(9);
    std::string s = hex(h);
    CHECK(s.size() == 64);
    REQUIRE(parse_hash(s));
    CHECK(*parse_hash(s) == h);
    CHECK(hex(short_name(h)) == s.substr(0, 32));
    CHECK_FALSE(parse_hash(""));
    CHECK_FALSE(parse_hash(s.substr(1)));
    CHECK_FALSE(parse_hash(s + "0"));
    for (char c : {'A', 'F', 'g', '/', ':', '`', ' ', '\0', '\xff'})
        for (size_t at : {size_t(0), size_t(1), size_t(63)}) {
            std::string bad = s;
            bad[at] = c;
            INFO(int(c), " at ", at);
            CHECK_FALSE(parse_hash(bad));
        }
}
