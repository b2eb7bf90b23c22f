/* A board of linewatch.h as a shared library, for tests/firmware_bridge/test_board.py: the clock and the line are
 * variables, what is sent is taken from a buffer. */
#include "linewatch.h"

static lw_board board;
static lw_config config;
static lw_channel channels[LW_MAX_CHANNELS];
static char names[LW_MAX_CHANNELS][4];
static uint8_t memory[8192];
static uint8_t line[1 << 20];
static size_t n_line;
static uint32_t clock_us;
static bool line_is_up;
static lw_status answer;
static uint32_t corrected_num;
static unsigned n_reboots;

static bool write_line(void *user, const uint8_t *bytes, size_t n) {
    (void)user;
    if (!line_is_up || n > sizeof line - n_line) {
        return false;
    }
    memcpy(line + n_line, bytes, n);
    n_line += n;
    return true;
}

static uint32_t now_us(void *user) {
    (void)user;
    return clock_us;
}

static lw_status command(void *user, lw_op op, uint32_t *rate_num, uint32_t *rate_den) {
    (void)user;
    (void)rate_den;
    if (op == LW_SET_RATE && corrected_num != 0) {
        *rate_num = corrected_num;
    }
    return answer;
}

static void reboot(void *user) {
    (void)user;
    n_reboots++;
}

/* A configuration of n_channels; the setters below change it before board_begin. */
void board_prepare(uint8_t n_channels, uint32_t rate_num, uint32_t rate_den, uint16_t buffer_size) {
    memset(&config, 0, sizeof config);
    memset(memory, 0xA5, sizeof memory);
    for (uint8_t i = 0; i < n_channels && i < LW_MAX_CHANNELS; i++) {
        names[i][0] = 'c';
        names[i][1] = (char)('0' + i / 10);
        names[i][2] = (char)('0' + i % 10);
        channels[i].name = names[i];
        channels[i].unit = "V";
        channels[i].scale = 1.0f;
        channels[i].offset = 0.0f;
    }
    config.firmware = "shim";
    config.version = "1";
    config.serial = "s";
    config.channels = channels;
    config.n_channels = n_channels;
    config.rate_num = rate_num;
    config.rate_den = rate_den;
    config.boot_id = 7;
    config.buffer = memory;
    config.buffer_size = buffer_size;
    config.write = write_line;
    config.now_us = now_us;
    config.command = command;
    config.reboot = reboot;
    line_is_up = true;
    answer = LW_OK;
    corrected_num = clock_us = 0;
    n_line = 0;
    n_reboots = 0;
}

void board_channel(uint8_t i, const char *name, float scale, float offset) {
    channels[i].name = name;
    channels[i].scale = scale;
    channels[i].offset = offset;
}

void board_serial(const char *serial) { config.serial = serial; }
void board_no_callbacks(void) { config.command = NULL; config.reboot = NULL; }
void board_no_write(void) { config.write = NULL; }
void board_intervals(uint32_t hold_us, uint32_t hello_us) { config.hold_us = hold_us; config.hello_us = hello_us; }

int board_begin(void) { return lw_begin(&board, &config); }
void board_clock(uint32_t us) { clock_us = us; }
void board_line(bool up) { line_is_up = up; }
void board_answer(int status, uint32_t rate_num) { answer = (lw_status)status; corrected_num = rate_num; }
void board_push(int format, const void *row, uint32_t us) { lw_push(&board, (lw_format)format, row, us); }
void board_push_i16(const int16_t *row) { lw_push_i16(&board, row); }
void board_push_i32(const int32_t *row) { lw_push_i32(&board, row); }
void board_push_f32(const float *row) { lw_push_f32(&board, row); }
void board_skip(uint32_t n_rows) { lw_skip(&board, n_rows); }
void board_flush(void) { lw_flush(&board); }
void board_event(int severity, uint16_t code, const char *text) { lw_event(&board, (lw_severity)severity, code, text); }
void board_poll(const uint8_t *bytes, size_t n) { lw_poll(&board, bytes, n); }
int board_set_rate(uint32_t num, uint32_t den) { return lw_set_rate(&board, num, den); }
unsigned board_reboots(void) { return n_reboots; }
uint32_t board_unsent(void) { return board.n_unsent; }
uint32_t board_refused(int cause) { return board.refused[cause]; }
uint32_t board_buffer_for(uint32_t n_rows, uint32_t n_channels, uint32_t value_bytes) {
    return LW_BUFFER_FOR(n_rows, n_channels, value_bytes);
}

/* Whether nothing was written behind the buffer. */
bool board_kept_within(void) {
    for (size_t i = config.buffer_size; i < sizeof memory; i++) {
        if (memory[i] != 0xA5) {
            return false;
        }
    }
    return true;
}

/* What was sent since the last time. */
size_t board_take(uint8_t *out) {
    const size_t n = n_line;
    memcpy(out, line, n);
    n_line = 0;
    return n;
}
