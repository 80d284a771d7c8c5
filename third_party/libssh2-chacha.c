/* ChaCha20 and Poly1305 for libssh2, from OpenSSL.
 *
 * libssh2 brings portable versions of its own, which take 2.2 s a GiB where OpenSSL's, which use
 * what the processor has, take 0.3: that is a quarter of what a backup costs. This file defines the
 * four functions that libssh2's chacha20-poly1305@openssh.com calls, so that the linker does not
 * take chacha.o and poly1305.o out of libssh2's archive. With a shared libssh2 nothing changes.
 *
 * The caller's struct is 64 bytes, used here as: key 32, initial counter 8, nonce 8, unused 16.
 */
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct chacha_ctx {
    unsigned char key[32], iv[16], unused[16];
};
void chacha_keysetup(struct chacha_ctx *x, const unsigned char *key, unsigned bits);
void chacha_ivsetup(struct chacha_ctx *x, const unsigned char *nonce, const unsigned char *counter);
void chacha_encrypt_bytes(struct chacha_ctx *x, const unsigned char *from, unsigned char *to, unsigned size);
void poly1305_auth(unsigned char tag[16], const unsigned char *data, size_t size, const unsigned char key[32]);

static EVP_CIPHER *chacha;
static EVP_MAC *poly1305;
static pthread_once_t fetched = PTHREAD_ONCE_INIT;

static void fetch(void) {
    chacha = EVP_CIPHER_fetch(NULL, "ChaCha20", NULL);
    poly1305 = EVP_MAC_fetch(NULL, "POLY1305", NULL);
}

/* These functions cannot report an error, and must never let bytes pass that are not encrypted. */
static void must(int good) {
    if (!good) abort();
}

void chacha_keysetup(struct chacha_ctx *x, const unsigned char *key, unsigned bits) {
    must(bits == 256);
    memcpy(x->key, key, sizeof x->key);
}

void chacha_ivsetup(struct chacha_ctx *x, const unsigned char *nonce, const unsigned char *counter) {
    memset(x->iv, 0, 8);
    if (counter) memcpy(x->iv, counter, 8);
    memcpy(x->iv + 8, nonce, 8);
}

void chacha_encrypt_bytes(struct chacha_ctx *x, const unsigned char *from, unsigned char *to, unsigned size) {
    int done = 0;
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    pthread_once(&fetched, fetch);
    must(c && chacha && EVP_EncryptInit_ex2(c, chacha, x->key, x->iv, NULL) == 1 &&
         EVP_EncryptUpdate(c, to, &done, from, (int)size) == 1 && (unsigned)done == size);
    EVP_CIPHER_CTX_free(c);
}

void poly1305_auth(unsigned char tag[16], const unsigned char *data, size_t size, const unsigned char key[32]) {
    size_t written = 0;
    EVP_MAC_CTX *c;
    pthread_once(&fetched, fetch);
    must(poly1305 != NULL);
    c = EVP_MAC_CTX_new(poly1305);
    must(c && EVP_MAC_init(c, key, 32, NULL) == 1 && EVP_MAC_update(c, data, size) == 1 &&
         EVP_MAC_final(c, tag, &written, 16) == 1 && written == 16);
    EVP_MAC_CTX_free(c);
}
