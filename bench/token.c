/* Signs with a new key of a PKCS#11 token, one signature after the other: a peer of the signer's.
 *
 *   token MODULE SECONDS
 *
 * Ed25519 where the module has it, else ECDSA P-256 (over a digest). The token is made in the module's first free slot,
 * and its files are the module's business. Prints the algorithm, signatures and seconds.
 */
#include <dlfcn.h>
#include <p11-kit/pkcs11.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHECK(call)                                                  \
    do {                                                             \
        CK_RV rv = (call);                                           \
        if (rv != CKR_OK) {                                          \
            fprintf(stderr, "%s: 0x%lx\n", #call, (unsigned long)rv); \
            exit(1);                                                 \
        }                                                            \
    } while (0)

enum { EC_EDWARDS_KEY_PAIR_GEN = 0x1055, EDDSA = 0x1057 };

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec * 1e-9;
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 64;
    void *library = dlopen(argv[1], RTLD_NOW);
    CK_C_GetFunctionList list = library ? (CK_C_GetFunctionList)dlsym(library, "C_GetFunctionList") : NULL;
    if (!list) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    CK_FUNCTION_LIST *p11;
    CK_SLOT_ID slot;
    CK_ULONG slots = 1;
    CK_SESSION_HANDLE session;
    unsigned char pin[] = "1234", label[32];
    memset(label, ' ', sizeof label);
    CHECK(list(&p11));
    CHECK(p11->C_Initialize(NULL));
    CHECK(p11->C_GetSlotList(CK_TRUE, &slot, &slots));
    CHECK(p11->C_InitToken(slot, pin, 4, label));
    slots = 1;
    CK_RV many = p11->C_GetSlotList(CK_TRUE, &slot, &slots);
    if (many != CKR_OK && many != CKR_BUFFER_TOO_SMALL)
        return 1;
    CHECK(p11->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session));
    CHECK(p11->C_Login(session, CKU_SO, pin, 4));
    CHECK(p11->C_InitPIN(session, pin, 4));
    CHECK(p11->C_Logout(session));
    CHECK(p11->C_Login(session, CKU_USER, pin, 4));

    unsigned char edwards[] = {0x06, 0x03, 0x2b, 0x65, 0x70}; /* id-Ed25519 */
    unsigned char named[] = "\x13\x0c" "edwards25519";
    unsigned char p256[] = {0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07};
    CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
    CK_OBJECT_HANDLE public_key, private_key;
    CK_ATTRIBUTE private_half[] = {{CKA_SIGN, &yes, 1}, {CKA_TOKEN, &no, 1}};
    struct { const char *name; CK_MECHANISM_TYPE make, sign; unsigned char *curve; CK_ULONG size, input; } tries[] = {
        {"Ed25519", EC_EDWARDS_KEY_PAIR_GEN, EDDSA, edwards, sizeof edwards, 256},
        {"Ed25519", EC_EDWARDS_KEY_PAIR_GEN, EDDSA, named, sizeof named - 1, 256},
        {"ECDSA-P256", CKM_EC_KEY_PAIR_GEN, CKM_ECDSA, p256, sizeof p256, 32},
    };
    size_t kind = 0, kinds = sizeof tries / sizeof *tries;
    for (; kind < kinds; kind++) {
        CK_ATTRIBUTE public_half[] = {{CKA_EC_PARAMS, tries[kind].curve, tries[kind].size},
                                      {CKA_VERIFY, &yes, 1}, {CKA_TOKEN, &no, 1}};
        CK_MECHANISM make = {tries[kind].make, NULL, 0};
        if (p11->C_GenerateKeyPair(session, &make, public_half, 3, private_half, 2, &public_key, &private_key) == CKR_OK)
            break;
    }
    if (kind == kinds)
        return 2;
    CK_MECHANISM sign = {tries[kind].sign, NULL, 0};
    unsigned char payload[256] = {0}, signature[256];
    double begun = now(), end = begun + atof(argv[2]);
    long count = 0;
    for (; now() < end; count++) {
        CK_ULONG size = sizeof signature;
        CHECK(p11->C_SignInit(session, &sign, private_key));
        CHECK(p11->C_Sign(session, payload, tries[kind].input, signature, &size));
    }
    printf("%s %ld %f\n", tries[kind].name, count, now() - begun);
    return 0;
}
