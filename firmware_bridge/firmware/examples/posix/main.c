/* A board in a process: samples a synthetic signal in real time and talks the line protocol on standard input and
 * output, or on a terminal that is named.
 *
 *     cc -std=c99 -O2 -I../../src main.c -lm -o board
 *     ./board [-r rows_a_second] [-c first_reading_of_the_clock_us] [-s serial] [/dev/pts/3]
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define _XOPEN_SOURCE 600 /* clock_gettime, poll, strtoul, getopt */

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "linewatch.h"

#define N_CHANNELS 3u
#define MAX_BEHIND_US 10000000 /* rows that are further behind are skipped, as a board would miss them */
#define PATIENCE_MS 5000        /* for whoever reads the line */

static const double TURN = 6.283185307179586;
static const double SIGNAL_HZ = 5.0;

typedef struct {
    int in;
    int out;
    uint64_t booted_us;   /* on the clock of the machine */
    uint32_t first_clock; /* what the board's counter reads at boot */
    bool reboot;
} machine;

static uint64_t monotonic_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

static uint32_t now_us(void *user) {
    const machine *m = (const machine *)user;
    return (uint32_t)(monotonic_us() - m->booted_us) + m->first_clock;
}

/* Gives up where nobody takes the bytes for a while: a board must go on sampling. */
static bool write_all(void *user, const uint8_t *bytes, size_t n) {
    const machine *m = (const machine *)user;
    while (n > 0) {
        struct pollfd ready = {m->out, POLLOUT, 0};
        if (poll(&ready, 1, PATIENCE_MS) != 1) {
            return false;
        }
        const ssize_t taken = write(m->out, bytes, n);
        if (taken < 0 && errno != EINTR && errno != EAGAIN) {
            return false;
        }
        if (taken > 0) {
            bytes += taken;
            n -= (size_t)taken;
        }
    }
    return true;
}

static lw_status command(void *user, lw_op op, uint32_t *rate_num, uint32_t *rate_den) {
    (void)user;
    if (op == LW_SET_RATE && *rate_num / *rate_den > 50000u) {
        return LW_BAD_ARGUMENT;
    }
    return LW_OK;
}

static void reboot(void *user) {
    ((machine *)user)->reboot = true;
}

/* Pushes the rows that are due, each with the time at which it was. */
static void sample(lw_board *board, uint32_t began_us) {
    const double period_us = 1e6 * board->config.rate_den / board->config.rate_num;
    const uint32_t now = now_us(board->config.user);
    for (;;) {
        const uint32_t due = began_us + (uint32_t)(uint64_t)(board->index * period_us);
        const int32_t behind = (int32_t)(now - due);
        if (behind < 0) {
            return;
        }
        if (behind > MAX_BEHIND_US) {
            lw_skip(board, (uint32_t)(behind / period_us));
            continue;
        }
        const double phase = TURN * SIGNAL_HZ * board->index * period_us / 1e6;
        const int16_t row[N_CHANNELS] = {
            (int16_t)lround(10000.0 * sin(phase)),
            (int16_t)lround(10000.0 * cos(phase)),
            (int16_t)(board->index & 0x7FFFu),
        };
        lw_push(board, LW_INT16, row, due);
    }
}

/* From boot to reboot (true) or to the end of the line (false). */
static bool run(machine *m, const char *serial, uint32_t rate) {
    static const lw_channel channels[N_CHANNELS] = {
        {"x", "m/s2", 0.002f, 0.0f},
        {"y", "m/s2", 0.002f, 0.0f},
        {"row", "", 1.0f, 0.0f},
    };
    static uint8_t buffer[512];
    static lw_board board;
    lw_config config = {0};
    config.firmware = "posix-example";
    config.version = "1.0.0";
    config.serial = serial;
    config.channels = channels;
    config.n_channels = N_CHANNELS;
    config.rate_num = rate;
    config.rate_den = 1;
    config.buffer = buffer;
    config.buffer_size = sizeof buffer;
    config.user = m;
    config.write = write_all;
    config.now_us = now_us;
    config.command = command;
    config.reboot = reboot;

    m->reboot = false;
    m->booted_us = monotonic_us();
    config.boot_id = (uint16_t)(m->booted_us ^ (uint64_t)getpid() << 3);
    uint32_t began_us = now_us(m); /* when row 0 of the configuration was due */
    if (lw_begin(&board, &config) != LW_READY) {
        fputs("the board's configuration is not valid\n", stderr);
        return false;
    }
    lw_event(&board, LW_INFO, 1, "booted");
    uint16_t config_id = board.config_id;
    while (!m->reboot) {
        uint8_t bytes[64];
        ssize_t n = 0;
        struct pollfd ready = {m->in, POLLIN, 0};
        if (poll(&ready, 1, 2) > 0) {
            n = read(m->in, bytes, sizeof bytes);
            if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN)) {
                return false;
            }
        }
        lw_poll(&board, bytes, n > 0 ? (size_t)n : 0);
        if (board.config_id != config_id) { /* another rate, or a new start */
            config_id = board.config_id;
            began_us = now_us(m);
        }
        if (board.running) {
            sample(&board, began_us);
        }
    }
    return true;
}

int main(int argc, char **argv) {
    machine m = {STDIN_FILENO, STDOUT_FILENO, 0, 0, false};
    const char *serial = "posix-1";
    uint32_t rate = 1000;
    int option;
    while ((option = getopt(argc, argv, "r:c:s:")) != -1) {
        switch (option) {
        case 'r':
            rate = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'c':
            m.first_clock = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 's':
            serial = optarg;
            break;
        default:
            return 2;
        }
    }
    if (rate == 0 || rate > 50000u) {
        fputs("-r takes 1 to 50000 rows a second\n", stderr);
        return 2;
    }
    if (optind < argc) {
        m.in = m.out = open(argv[optind], O_RDWR | O_NOCTTY | O_NONBLOCK);
        if (m.in < 0) {
            perror(argv[optind]);
            return 1;
        }
    }
    struct termios line;
    if (tcgetattr(m.in, &line) == 0) { /* bytes as they are: no echo, no translation, no XON/XOFF */
        line.c_iflag &= ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
        line.c_oflag &= ~(tcflag_t)OPOST;
        line.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
        tcsetattr(m.in, TCSANOW, &line);
    }
    while (run(&m, serial, rate)) {
        m.first_clock = 0;
    }
    return 0;
}
