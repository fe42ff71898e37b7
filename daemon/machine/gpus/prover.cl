// Fills memory with PBKDF2-HMAC-SHA256 and hashes it: see protos/dcp/v1/gpu_proofs.proto. SHA-256 is FIPS 180-4.

#define ROTATED(x, n) rotate((uint)(x), (uint)(32 - (n)))

__constant uint K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

__constant uint START[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                            0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

// One block of 16 words; the words are changed.
static void compress(uint *state, uint *w)
{
    uint a = state[0], b = state[1], c = state[2], d = state[3];
    uint e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 64; i++) {
        if (i >= 16) {
            uint x = w[(i + 1) & 15], y = w[(i + 14) & 15];
            w[i & 15] += (ROTATED(x, 7) ^ ROTATED(x, 18) ^ (x >> 3)) + w[(i + 9) & 15]
                       + (ROTATED(y, 17) ^ ROTATED(y, 19) ^ (y >> 10));
        }
        uint one = h + (ROTATED(e, 6) ^ ROTATED(e, 11) ^ ROTATED(e, 25)) + bitselect(g, f, e) + K[i] + w[i & 15];
        uint two = (ROTATED(a, 2) ^ ROTATED(a, 13) ^ ROTATED(a, 22)) + bitselect(a, b, c ^ a);
        h = g; g = f; f = e; e = d + one;
        d = c; c = b; b = a; a = one + two;
    }
    state[0] += a; state[1] += b; state[2] += c; state[3] += d;
    state[4] += e; state[5] += f; state[6] += g; state[7] += h;
}

// HMAC of the words in `w`, whose first `count` are the message; the states are those after the key's blocks.
static void hmac(__constant const uint *key, uint *w, int count, uint *out)
{
    for (int side = 0; side < 2; side++) {
        uint state[8];
        for (int i = 0; i < 8; i++) state[i] = key[8 * side + i];
        w[count] = 0x80000000;
        for (int i = count + 1; i < 15; i++) w[i] = 0;
        w[15] = 512 + 32 * count;
        compress(state, w);
        for (int i = 0; i < 8; i++) w[i] = out[i] = state[i];
        count = 8;
    }
}

// The states of both halves of HMAC after the block of a key of 32 bytes.
__kernel void prepare(__constant const uint *password, __global uint *key)
{
    for (int side = 0; side < 2; side++) {
        uint state[8], w[16], pad = side ? 0x5c5c5c5c : 0x36363636;
        for (int i = 0; i < 8; i++) state[i] = START[i];
        for (int i = 0; i < 16; i++) w[i] = (i < 8 ? password[i] : 0) ^ pad;
        compress(state, w);
        for (int i = 0; i < 8; i++) key[8 * side + i] = state[i];
    }
}

// `cells`: 8 words each. `first`: the number of the buffer's first cell on the GPU; `offset`: where to begin in it.
__kernel void fill(__global uint *cells, ulong first, ulong offset, uint gpu, uint rounds,
                   __constant const uint *key)
{
    ulong place = offset + get_global_id(0), number = first + place;
    uint w[16], last[8], sum[8];
    w[0] = gpu; w[1] = (uint)(number >> 32); w[2] = (uint)number; w[3] = 1;
    hmac(key, w, 4, last);
    for (int i = 0; i < 8; i++) sum[i] = last[i];
    for (uint round = 1; round < rounds; round++) {
        for (int i = 0; i < 8; i++) w[i] = last[i];
        hmac(key, w, 8, last);
        for (int i = 0; i < 8; i++) sum[i] ^= last[i];
    }
    for (int i = 0; i < 8; i++) cells[8 * place + i] = sum[i];
}

// `chunk_cells`: even. `digests`: 4 words each, the first half of the SHA-256 of the nonce and the chunk.
__kernel void digest(__global const uint *cells, uint chunk_cells, __constant const uint *nonce,
                     __global uint *digests)
{
    ulong chunk = get_global_id(0);
    __global const uint *words = cells + chunk * chunk_cells * 8;
    uint state[8], w[16];
    for (int i = 0; i < 8; i++) {
        state[i] = START[i];
        w[i] = nonce[i];
    }
    for (uint cell = 0; cell < chunk_cells; cell += 2) {
        for (int i = 0; i < 8; i++) w[8 + i] = words[8 * cell + i];
        compress(state, w);
        for (int i = 0; i < 8; i++) w[i] = words[8 * cell + 8 + i];
    }
    w[8] = 0x80000000;
    for (int i = 9; i < 14; i++) w[i] = 0;
    ulong bits = 256 * ((ulong)chunk_cells + 1);
    w[14] = (uint)(bits >> 32); w[15] = (uint)bits;
    compress(state, w);
    for (int i = 0; i < 4; i++) digests[4 * chunk + i] = state[i];
}
