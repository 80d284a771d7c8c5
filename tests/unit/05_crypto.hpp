// Section 5: crypto, against published vectors and, where there are none, against OpenSSL.

namespace {

/// AES-256-GCM by another library: the ciphertext with its tag.
Bytes openssl_gcm(View key, View iv, View associated, View plain) {
    std::unique_ptr<EVP_CIPHER_CTX, decltype(&EVP_CIPHER_CTX_free)> c(EVP_CIPHER_CTX_new(),
                                                                      EVP_CIPHER_CTX_free);
    Bytes out(plain.size() + 16);
    int n = 0, good = EVP_EncryptInit_ex(c.get(), EVP_aes_256_gcm(), nullptr, key.data(), iv.data());
    if (!associated.empty())
        good &= EVP_EncryptUpdate(c.get(), nullptr, &n, associated.data(), int(associated.size()));
    if (!plain.empty()) good &= EVP_EncryptUpdate(c.get(), out.data(), &n, plain.data(), int(plain.size()));
    good &= EVP_EncryptFinal_ex(c.get(), out.data() + plain.size(), &n);
    good &= EVP_CIPHER_CTX_ctrl(c.get(), EVP_CTRL_GCM_GET_TAG, 16, out.data() + plain.size());
    REQUIRE(good == 1);
    return out;
}

std::string sealed_hex(const Secret& key, View associated, uint64_t number, View plain) {
    Bytes out;
    Aead(key, associated).seal(number, plain, out);
    return hex(out);
}

} // namespace

TEST_CASE("crypto: SHA-256 gives the digests of FIPS 180-4") {
    auto digest = [](std::string_view s) { return hex(sha256(as_bytes(s))); };
    CHECK(digest("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    CHECK(digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    CHECK(digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
          "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    CHECK(digest(std::string(1'000'000, 'a')) ==
          "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("crypto: chunk ids are the HMAC-SHA-256 of RFC 4231, cut to 16 bytes") {
    auto id = [](const Bytes& key, std::string_view data) {
        return hex(IdHasher(secret_of(key))(as_bytes(data)));
    };
    CHECK(id(Bytes(20, 0x0b), "Hi There") == "b0344c61d8db38535ca8afceaf0bf12b");
    CHECK(id(bytes_of("Jefe"), "what do ya want for nothing?") == "5bdcc146bf60754e6a042426089575c7");
    CHECK(id(Bytes(20, 0xaa), std::string(50, '\xdd')) == "773ea91e36800e46854db8ebd09181a7");
    CHECK(id(Bytes(20, 0x0c), "Test With Truncation") == "a3b6167473100ee06e0c796c2955552b");
    CHECK(id(Bytes(131, 0xaa), "Test Using Larger Than Block-Size Key - Hash Key First") ==
          "60e431591ee0b67f0d8a26aacbf5b77f");
    IdHasher again(secret_of(Bytes(20, 0x0b))); // one object serves many calls
    again(as_bytes("something else"));
    again({});
    CHECK(hex(again(as_bytes("Hi There"))) == "b0344c61d8db38535ca8afceaf0bf12b");
}

TEST_CASE("crypto: keys are derived by the HKDF of RFC 5869") {
    auto derive = [](std::string_view key, std::string_view salt, std::string_view info) {
        return hex(hkdf(from_hex(key), from_hex(salt), string_of(from_hex(info))).view());
    };
    CHECK(derive("0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b", "000102030405060708090a0b0c",
                 "f0f1f2f3f4f5f6f7f8f9") ==
          "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf");
    CHECK(derive("0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b", "", "") ==
          "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d");
    std::string ikm, salt, info;
    for (int i = 0; i < 80; ++i) {
        ikm += hex(std::array{uint8_t(i)});
        salt += hex(std::array{uint8_t(0x60 + i)});
        info += hex(std::array{uint8_t(0xb0 + i)});
    }
    CHECK(derive(ikm, salt, info) == "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c");
}

TEST_CASE("crypto: a passphrase is stretched by the scrypt of RFC 7914") {
    // The first 32 of the 64 bytes that the RFC gives: they do not depend on how many are asked
    // for.
    auto stretched = [](std::string_view words, std::string_view salt, unsigned log_n, uint32_t r,
                        uint32_t p) {
        return hex(stretch(Secret(words), as_bytes(salt), {log_n, r, p}).view());
    };
    CHECK(stretched("", "", 4, 1, 1) == "77d6576238657b203b19ca42c18a0497f16b4844e3074ae8dfdffa3fede21442");
    CHECK(stretched("password", "NaCl", 10, 8, 16) ==
          "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162");
    CHECK(stretched("pleaseletmein", "SodiumChloride", 14, 8, 1) ==
          "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2");
}

TEST_CASE("crypto: scrypt costs are bounded from both sides") {
    auto ok = [](unsigned log_n, uint32_t r, uint32_t p) { return ScryptCost{log_n, r, p}.acceptable(); };
    CHECK(ScryptCost{}.acceptable());
    CHECK(ScryptCost{}.log_n == 17);
    CHECK(ok(15, 8, 1));
    CHECK(ok(18, 8, 1));
    CHECK(ok(15, 64, 1)); // 256 MiB
    CHECK(ok(17, 8, 4));
    CHECK_FALSE(ok(14, 8, 1)); // cheap to guess against
    CHECK_FALSE(ok(0, 8, 1));
    CHECK_FALSE(ok(15, 7, 1));
    CHECK_FALSE(ok(15, 0, 1));
    CHECK_FALSE(ok(15, 8, 0));
    CHECK_FALSE(ok(15, 65, 1)); // more than 256 MiB
    CHECK_FALSE(ok(19, 8, 1));
    CHECK_FALSE(ok(17, 8, 5));
    CHECK_FALSE(ok(21, 8, 1));
    CHECK_FALSE(ok(30, 8, 1));
    CHECK_FALSE(ok(31, 8, 1));
    CHECK_FALSE(ok(64, 8, 1)); // a shift by the whole width
    CHECK_FALSE(ok(79, 8, 1)); // 15, if shifts wrapped
    CHECK_FALSE(ok(255, UINT32_MAX, UINT32_MAX));
    CHECK_FALSE(ok(15, UINT32_MAX, 1));
    CHECK_FALSE(ok(15, 8, 17));
}

TEST_CASE("crypto: sealing is the AES-256-GCM of the specification's test cases 13 and 14") {
    Secret zero(32);
    CHECK(sealed_hex(zero, {}, 0, {}) == "530f8afbc74536b9a963b4f1c4cb738b");
    CHECK(sealed_hex(zero, {}, 0, Bytes(16)) == "cea7403d4d606b6e074ec5d3baf39d18"
                                                "d0d1c8a799996bf0265b98b5d48ab919");
}

TEST_CASE("crypto: sealing with any number and associated data is what OpenSSL makes of it") {
    CHECK(hex(nonce(0x0102030405060708)) == "080706050403020100000000");
    CHECK(hex(nonce(kNonceTable)) == "ffffffffffffffff00000000");
    CHECK(hex(nonce(kNonceFooter)) == "feffffffffffffff00000000");
    for (uint64_t number : {uint64_t(0), uint64_t(1), uint64_t(255), uint64_t(256), uint64_t(1) << 40,
                            kNonceTable, kNonceFooter})
        for (size_t size : {size_t(0), size_t(1), size_t(15), size_t(16), size_t(17), size_t(100'000)}) {
            INFO("nonce ", number, ", ", size, " bytes");
            auto key = noise(32, number + size), associated = noise(size % 37, 5), plain = noise(size, 6);
            auto ours = sealed_hex(secret_of(key), associated, number, plain);
            CHECK(ours == hex(openssl_gcm(key, nonce(number), associated, plain)));
        }
}

TEST_CASE("crypto: what was sealed opens under the same key, number and associated data only") {
    auto key = secret_of(noise(32, 1)), other_key = secret_of(noise(32, 2));
    auto associated = noise(12, 3), plain = noise(40, 4);
    Bytes sealed = bytes_of("before");
    Aead aead(key, associated);
    aead.seal(7, plain, sealed);
    REQUIRE(sealed.size() == 6 + plain.size() + kTag);
    CHECK(string_of(View(sealed).first(6)) == "before"); // appended
    sealed.erase(sealed.begin(), sealed.begin() + 6);
    auto opened = aead.open(7, sealed);
    REQUIRE(opened);
    CHECK(*opened == plain);
    CHECK(Aead(key, associated).open(7, sealed) == plain); // and by an object that never sealed

    CHECK_FALSE(aead.open(8, sealed));
    CHECK_FALSE(aead.open(6, sealed));
    CHECK_FALSE(aead.open(7 | uint64_t(1) << 63, sealed));
    CHECK_FALSE(Aead(other_key, associated).open(7, sealed));
    CHECK_FALSE(Aead(key, {}).open(7, sealed));
    for (size_t bit = 0; bit < associated.size() * 8; ++bit) {
        auto bad = associated;
        bad[bit / 8] ^= uint8_t(1 << bit % 8);
        CHECK_FALSE(Aead(key, bad).open(7, sealed));
    }
    for (size_t bit = 0; bit < sealed.size() * 8; ++bit) {
        INFO("bit ", bit, " of the ciphertext or tag");
        auto bad = sealed;
        bad[bit / 8] ^= uint8_t(1 << bit % 8);
        CHECK_FALSE(aead.open(7, bad));
    }
    for (size_t n = 0; n < sealed.size(); ++n) CHECK_FALSE(aead.open(7, View(sealed).first(n)));
    sealed.push_back(0);
    CHECK_FALSE(aead.open(7, sealed));
    sealed.pop_back();
    CHECK(aead.open(7, sealed) == plain); // refusals leave no trace
}

TEST_CASE("crypto: an empty message is authenticated, too") {
    Aead aead(Secret(32), as_bytes("associated"));
    Bytes sealed;
    aead.seal(0, {}, sealed);
    CHECK(sealed.size() == kTag);
    auto opened = aead.open(0, sealed);
    REQUIRE(opened);
    CHECK(opened->empty());
    sealed[0] ^= 1;
    CHECK_FALSE(aead.open(0, sealed));
    CHECK_FALSE(aead.open(0, {}));
}

TEST_CASE("crypto: the keys of a repository differ from each other and from master to master") {
    Keys a(Secret(32)), b(secret_of(noise(32, 1)));
    std::set<std::string> seen;
    for (auto* keys : {&a, &b})
        for (auto* key : {&id_key(*keys), &keys->gear(), &pack_key(*keys), &index_key(*keys)})
            seen.insert(hex(key->view()));
    CHECK(seen.size() == 8);
    // A format that was released: these must never change. Computed by another program (Python's
    // hmac).
    CHECK(hex(id_key(a).view()) == "395ea7f6312764827970ea053bb27804ab904e0fbe527ef3faf84a17b2dfa2bc");
    CHECK(hex(a.gear().view()) == "72d14b24bf56e42bf1bc989e7261aed47a5e8514fa1d075b05834da791119188");
    CHECK(hex(pack_key(a).view()) == "d3f3553c3f31eb82720d464f811998d3b39249ba90a13f3ca4150b9e2ac54802");
    CHECK(hex(index_key(a).view()) == "1c3e6c6dcdb3dc6a0159d4ace1a5a1080fb88908f8c47ed7a72db6188970b952");
}

TEST_CASE("crypto: secrets move, compare and are wiped") {
    Secret a("words");
    CHECK(a == Secret("words"));
    CHECK_FALSE(a == Secret("Words"));
    CHECK_FALSE(a == Secret("word"));
    Secret b = a.clone();
    Secret c(std::move(b));
    CHECK(c == a);
    b = std::move(c);
    CHECK(b == a);
    CHECK(Secret().size() == 32);
    std::string s = "on its way";
    wipe(s);
    CHECK(s.empty());
}
