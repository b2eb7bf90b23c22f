/* The golden frames against linewatch.h. tests/firmware_bridge/test_firmware.py hands over each as one line of words;
 * bytes and texts are hexadecimal ("-": none), numbers decimal. Says what is wrong, one line each; silent if nothing.
 */
#include <stdio.h>
#include <stdlib.h>

#define LW_RX_MAX 4100u
#include "linewatch.h"

#define MAX_LINE 40000
#define MAX_SENT 8

static char line[MAX_LINE];
static const char *name;
static int n_wrong;
static int n_done;

/* What a board has sent since the last begin(). */
static uint8_t sent[MAX_SENT][5000];
static size_t sent_size[MAX_SENT];
static size_t n_sent;

static uint32_t clock_now, clock_next; /* read once, and from then on */
static lw_status answer;
static unsigned commanded;
static uint32_t commanded_num, commanded_den;
static unsigned n_reboots;

static void wrong(const char *what) {
    printf("%s: %s\n", name, what);
    n_wrong++;
}

static void check(bool ok, const char *what) {
    if (!ok) {
        wrong(what);
    }
}

static const char *word(void) {
    const char *found = strtok(NULL, " \n");
    if (found == NULL) {
        wrong("the line is too short");
        exit(2);
    }
    return found;
}

static uint32_t number(void) {
    return (uint32_t)strtoul(word(), NULL, 10);
}

/* The next word as bytes, with a zero behind them. */
static uint8_t *bytes(size_t *n) {
    const char *hex = word();
    uint8_t *data = (uint8_t *)malloc(strlen(hex) / 2 + 1);
    *n = 0;
    if (hex[0] != '-') {
        for (; hex[0] != '\0'; hex += 2) {
            const char pair[3] = {hex[0], hex[1], '\0'};
            data[(*n)++] = (uint8_t)strtoul(pair, NULL, 16);
        }
    }
    data[*n] = 0;
    return data;
}

static const char *text(void) {
    size_t n;
    return (const char *)bytes(&n);
}

static bool write_frame(void *user, const uint8_t *data, size_t n) {
    (void)user;
    if (n_sent == MAX_SENT || n > sizeof sent[0]) {
        return false;
    }
    memcpy(sent[n_sent], data, n);
    sent_size[n_sent++] = n;
    return true;
}

static uint32_t now_us(void *user) {
    const uint32_t now = clock_now;
    (void)user;
    clock_now = clock_next;
    return now;
}

static lw_status command(void *user, lw_op op, uint32_t *rate_num, uint32_t *rate_den) {
    (void)user;
    commanded = op;
    commanded_num = *rate_num;
    commanded_den = *rate_den;
    return answer;
}

static void reboot(void *user) {
    (void)user;
    n_reboots++;
}

/* The board says exactly this, and nothing else. */
static void expect(const uint8_t *frame, size_t n) {
    if (n_sent != 1 || sent_size[0] != n || memcmp(sent[0], frame, n) != 0) {
        wrong(n_sent == 0 ? "nothing was sent" : n_sent > 1 ? "more was sent" : "another frame was sent");
    }
}

static const lw_channel one[1] = {{"a", "", 1.0f, 0.0f}};
static uint8_t buffer[4200];
static lw_board board;

static lw_config config_of(const lw_channel *channels, uint8_t n_channels) {
    lw_config config;
    memset(&config, 0, sizeof config);
    config.channels = channels;
    config.n_channels = n_channels;
    config.rate_num = 1000;
    config.rate_den = 1;
    config.buffer = buffer;
    config.buffer_size = sizeof buffer;
    config.hold_us = config.hello_us = 0x7FFFFFFF;
    config.write = write_frame;
    config.now_us = now_us;
    config.command = command;
    config.reboot = reboot;
    return config;
}

/* A board that has said Hello and will next send frame `seq`. */
static void begin(const lw_config *config, uint32_t seq) {
    check(lw_begin(&board, config) == LW_READY, "the configuration is refused");
    board.seq = (uint16_t)seq;
    n_sent = 0;
    clock_now = clock_next = 0;
    commanded = 0;
}

static void plain(uint32_t seq) {
    const lw_config config = config_of(one, 1);
    begin(&config, seq);
}

static void do_frame(void) {
    static lw_decoder decoder;
    size_t n_frame, n_body, n = 0;
    const uint8_t *frame = bytes(&n_frame);
    const uint8_t *body = bytes(&n_body);
    memset(&decoder, 0, sizeof decoder);
    for (size_t i = 0; i < n_frame; i++) {
        check(n == 0, "a body before the end of the frame");
        n = lw_decode(&decoder, frame[i]);
    }
    check(n == n_body && memcmp(decoder.raw, body, n_body) == 0, "another body");
}

static void do_stream(void) {
    static const char *const reasons[LW_N_DAMAGES] = {"bad_crc", "bad_cobs", "short", "oversize"};
    static lw_decoder decoder;
    size_t n_data, n_body;
    const uint8_t *data = bytes(&n_data);
    uint32_t damage[LW_N_DAMAGES];
    for (int k = 0; k < LW_N_DAMAGES; k++) {
        damage[k] = number();
    }
    const uint32_t n_bodies = number();
    uint32_t found = 0;
    memset(&decoder, 0, sizeof decoder);
    for (size_t i = 0; i < n_data; i++) {
        const size_t n = lw_decode(&decoder, data[i]);
        if (n > 0 && found++ < n_bodies) {
            const uint8_t *body = bytes(&n_body);
            check(n == n_body && memcmp(decoder.raw, body, n) == 0, "another body");
        }
    }
    check(found == n_bodies, "bodies are missing, or too many");
    for (int k = 0; k < LW_N_DAMAGES; k++) {
        check(decoder.damage[k] == damage[k], reasons[k]);
    }
}

static void do_hello(void) {
    size_t n;
    const uint8_t *frame = bytes(&n);
    const uint32_t seq = number();
    lw_channel channels[64];
    const uint16_t config_id = (uint16_t)number();
    const char *firmware = text(), *version = text(), *serial = text();
    const uint32_t rate_num = number(), rate_den = number(), now = number();
    const uint8_t n_channels = (uint8_t)number();
    for (uint8_t i = 0; i < n_channels; i++) {
        channels[i].name = text();
        channels[i].unit = text();
        const uint32_t scale = number(), offset = number();
        memcpy(&channels[i].scale, &scale, 4);
        memcpy(&channels[i].offset, &offset, 4);
    }
    lw_config config = config_of(channels, n_channels);
    config.boot_id = config_id;
    config.firmware = firmware;
    config.version = version;
    config.serial = serial;
    config.rate_num = rate_num;
    config.rate_den = rate_den;
    begin(&config, seq);
    clock_now = clock_next = now;
    (void)lw_hello_(&board);
    expect(frame, n);
}

static void do_samples(void) {
    size_t n;
    const uint8_t *frame = bytes(&n);
    static lw_channel channels[64];
    static char names[64][8];
    const uint32_t seq = number();
    const uint16_t config_id = (uint16_t)number();
    const lw_format format = (lw_format)number();
    const uint8_t n_channels = (uint8_t)number();
    const uint32_t n_rows = number(), first_us = number(), index = number();
    for (uint8_t i = 0; i < n_channels; i++) {
        sprintf(names[i], "c%u", (unsigned)i);
        channels[i].name = names[i];
        channels[i].unit = NULL;
        channels[i].scale = 1.0f;
        channels[i].offset = 0.0f;
    }
    lw_config config = config_of(channels, n_channels);
    config.boot_id = config_id;
    begin(&config, seq);
    board.index = index;
    for (uint32_t row = 0; row < n_rows; row++) {
        uint16_t narrow[64];
        uint32_t wide[64];
        for (uint8_t i = 0; i < n_channels; i++) {
            wide[i] = number();
            narrow[i] = (uint16_t)wide[i];
        }
        lw_push(&board, format, format == LW_INT16 ? (const void *)narrow : (const void *)wide, first_us + row);
    }
    lw_flush(&board);
    expect(frame, n);
}

static void do_event(void) {
    size_t n;
    const uint8_t *frame = bytes(&n);
    plain(number());
    clock_now = clock_next = number();
    const uint16_t code = (uint16_t)number();
    const lw_severity severity = (lw_severity)number();
    lw_event(&board, severity, code, text());
    expect(frame, n);
}

/* The answer to a question of the host. */
static void do_reply(void) {
    size_t n, n_request;
    const uint8_t *frame = bytes(&n);
    const uint8_t *request = bytes(&n_request);
    plain(number());
    clock_now = number();
    clock_next = number();
    lw_poll(&board, request, n_request);
    expect(frame, n);
}

static void do_command(void) {
    size_t n, k;
    const uint8_t *frame = bytes(&n);
    const uint32_t id = number(), op = number(), rate_num = number(), rate_den = number();
    const unsigned reboots = n_reboots;
    plain(0);
    answer = LW_OK;
    for (k = 0; k < n; k++) {
        lw_poll(&board, frame + k, 1);
    }
    if (op == LW_IDENTIFY) {
        check(n_sent == 2, "no Hello after the acknowledgement");
    } else if (op == LW_REBOOT) {
        check(n_reboots == reboots + 1, "no reboot");
    } else {
        check(commanded == op && commanded_num == rate_num && commanded_den == rate_den, "another command");
    }
    lw_decoder acked;
    memset(&acked, 0, sizeof acked);
    size_t n_body = 0;
    for (k = 0; n_sent > 0 && k < sent_size[0]; k++) {
        n_body = lw_decode(&acked, sent[0][k]);
    }
    check(n_body == 8 && acked.raw[1] == LW_ACK && lw_get16_(acked.raw + 4) == id && acked.raw[6] == op &&
              acked.raw[7] == LW_OK,
          "no acknowledgement of it");
}

static void do_ack(void) {
    size_t n, n_command;
    const uint8_t *frame = bytes(&n);
    const uint8_t *request = bytes(&n_command);
    plain(number());
    answer = (lw_status)number();
    if (answer == LW_UNSUPPORTED) {
        board.config.command = NULL;
        board.config.reboot = NULL;
    }
    lw_poll(&board, request, n_command);
    expect(frame, n);
}

/* A command that has no effect on a board that would do anything. */
static void do_declined(void) {
    size_t n, n_command;
    const uint8_t *frame = bytes(&n);
    const uint8_t *request = bytes(&n_command);
    const unsigned reboots = n_reboots;
    plain(number());
    answer = LW_OK;
    lw_poll(&board, request, n_command);
    expect(frame, n);
    check(commanded == 0 && n_reboots == reboots, "it had an effect");
}

static void do_refused(void) {
    static const char *const causes[LW_N_CAUSES] = {"unknown_type", "unknown_version", "malformed"};
    size_t n;
    const uint8_t *frame = bytes(&n);
    const char *cause = word();
    plain(0);
    lw_poll(&board, frame, n);
    check(n_sent == 0 && commanded == 0, "it had an effect");
    for (int k = 0; k < LW_N_CAUSES; k++) {
        check(board.refused[k] == (strcmp(cause, causes[k]) == 0 ? 1u : 0u), cause);
    }
}

static const struct {
    const char *name;
    void (*run)(void);
} kinds[] = {
    {"frame", do_frame}, {"stream", do_stream},   {"hello", do_hello}, {"samples", do_samples}, {"event", do_event},
    {"reply", do_reply}, {"command", do_command}, {"ack", do_ack},     {"refused", do_refused},
    {"declined", do_declined},
};

int main(void) {
    while (fgets(line, sizeof line, stdin) != NULL) {
        const char *kind = strtok(line, " \n");
        size_t k = 0;
        name = kind;
        while (k < sizeof kinds / sizeof kinds[0] && strcmp(kinds[k].name, kind) != 0) {
            k++;
        }
        if (k == sizeof kinds / sizeof kinds[0]) {
            wrong("an unknown kind");
            return 2;
        }
        name = word();
        kinds[k].run();
        n_done++;
    }
    printf("%d done, %d wrong\n", n_done, n_wrong);
    return n_wrong > 0;
}
