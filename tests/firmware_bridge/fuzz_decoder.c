/* Reads a stream from standard input, decodes it with linewatch.h, and writes each body that it finds, behind its
 * length (uint32, little-endian), to standard output; then counts to standard error. The same bytes go to a board of
 * every size of frame, which answers into nothing. For tests/firmware_bridge/fuzz.py, compiled with sanitizers. */
#include <stdio.h>
#include <stdlib.h>

#define LW_RX_MAX 4100u
#include "linewatch.h"

static const lw_channel channels[2] = {{"a", "V", 1.0f, 0.0f}, {"b", "", 0.5f, 1.0f}};
static uint32_t clock_us;
static unsigned long n_answered, n_reboots;

static bool write_nothing(void *user, const uint8_t *bytes, size_t n) {
    (void)user;
    n_answered++;
    return n > 2 && bytes[0] == 0 && bytes[n - 1] == 0 && memchr(bytes + 1, 0, n - 2) == NULL;
}

static uint32_t now_us(void *user) {
    (void)user;
    return clock_us += 997;
}

static lw_status command(void *user, lw_op op, uint32_t *rate_num, uint32_t *rate_den) {
    (void)user;
    return (lw_status)((op + *rate_num + *rate_den) & 3u);
}

static void reboot(void *user) {
    (void)user;
    n_reboots++;
}

int main(void) {
    static lw_decoder decoder;
    static lw_board board;
    static uint8_t chunk[4096];
    uint8_t *buffer = (uint8_t *)malloc(150); /* of its own, so that a byte too far is noticed */
    lw_config config;
    unsigned long n_frames = 0, n_bytes = 0;
    size_t n;
    memset(&config, 0, sizeof config);
    config.channels = channels;
    config.n_channels = 2;
    config.rate_num = 100;
    config.rate_den = 1;
    config.buffer = buffer;
    config.buffer_size = 150;
    config.write = write_nothing;
    config.now_us = now_us;
    config.command = command;
    config.reboot = reboot;
    if (buffer == NULL || lw_begin(&board, &config) != LW_READY) {
        return 2;
    }
    while ((n = fread(chunk, 1, 1 + (n_bytes * 2654435761u >> 7) % sizeof chunk, stdin)) > 0) {
        const int16_t row[2] = {(int16_t)chunk[0], (int16_t)n};
        n_bytes += n;
        for (size_t i = 0; i < n; i++) {
            const size_t size = lw_decode(&decoder, chunk[i]);
            if (size > 0) {
                const uint8_t length[4] = {(uint8_t)size, (uint8_t)(size >> 8), 0, 0};
                fwrite(length, 1, 4, stdout);
                fwrite(decoder.raw, 1, size, stdout);
                n_frames++;
            }
        }
        lw_poll(&board, chunk, n);
        lw_push_i16(&board, row);
        if (n % 16 == 0) {
            char text[40];
            memcpy(text, chunk, 39 < n ? 39 : n);
            text[39 < n ? 39 : n] = '\0';
            lw_event(&board, LW_INFO, (uint16_t)n, text);
        }
    }
    free(buffer);
    if (board.n_unsent != 0) {
        fputs("a frame without its delimiters was sent\n", stderr);
        return 1;
    }
    fprintf(stderr, "%lu %lu %lu %lu %lu %lu %lu %lu\n", n_frames, (unsigned long)decoder.damage[LW_BAD_CRC],
            (unsigned long)decoder.damage[LW_BAD_COBS], (unsigned long)decoder.damage[LW_SHORT],
            (unsigned long)decoder.damage[LW_OVERSIZE], n_answered, n_reboots, n_bytes);
    return 0;
}
