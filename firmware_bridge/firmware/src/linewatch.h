/* linewatch.h: a board's end of the Linewatch line protocol, version 1.0.
 *
 * Fill an lw_config, call lw_begin, push rows as they are sampled, and hand what the host sends to lw_poll in the main
 * loop. Frames, checksums, row numbers, Hello, TimeSync and acknowledgements are made here. All state is in an lw_board
 * and one buffer, both yours; nothing is allocated, and no function of stdio or of floating-point arithmetic is used.
 * Each lw_board must be used from one context at a time: do not push from an interrupt while the loop polls.
 *
 * C99 and C++. docs/protocol.md of Linewatch has the layouts. SPDX-License-Identifier: Apache-2.0
 */
#ifndef LINEWATCH_H
#define LINEWATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define LW_MAJOR 1
#define LW_MINOR 0
#define LW_MAX_BODY 4096u
#define LW_MAX_CHANNELS 64u

/* Longest body, with its CRC, that is taken from the host. Version 1.0 needs 20; later ones may append fields. */
#ifndef LW_RX_MAX
#define LW_RX_MAX 64u
#endif

typedef enum { LW_HELLO = 1, LW_SAMPLES, LW_TIME_SYNC, LW_EVENT, LW_COMMAND, LW_ACK } lw_type;
typedef enum { LW_INT16 = 1, LW_INT32, LW_FLOAT32 } lw_format;
typedef enum { LW_START = 1, LW_STOP, LW_SET_RATE, LW_IDENTIFY, LW_REBOOT } lw_op;
typedef enum { LW_OK, LW_UNSUPPORTED, LW_BAD_ARGUMENT, LW_BUSY } lw_status;
typedef enum { LW_DEBUG, LW_INFO, LW_WARNING, LW_ERROR } lw_severity;

/* Why what came between two delimiters is not a frame, and why a frame was not read. */
typedef enum { LW_BAD_CRC, LW_BAD_COBS, LW_SHORT, LW_OVERSIZE, LW_N_DAMAGES } lw_damage;
typedef enum { LW_UNKNOWN_TYPE, LW_UNKNOWN_VERSION, LW_MALFORMED, LW_N_CAUSES } lw_cause;

/* What lw_begin and lw_set_rate find. */
typedef enum {
    LW_READY,
    LW_NO_CALLBACK,  /* write and now_us are needed */
    LW_BAD_CHANNELS, /* 1 to 64, each with a name of its own and a finite scale that is not 0 */
    LW_BAD_TEXT,     /* a text of more than 255 bytes */
    LW_BAD_RATE,     /* a denominator of 0 */
    LW_SMALL_BUFFER  /* the Hello, or one row, does not fit: see LW_BUFFER_FOR */
} lw_result;

/* Value in `unit` = count * scale + offset. */
typedef struct {
    const char *name;
    const char *unit;
    float scale;
    float offset;
} lw_channel;

/* What a board is. What is pointed to must live as long as the board does. */
typedef struct {
    const char *firmware; /* its name, */
    const char *version;  /* its version, */
    const char *serial;   /* and which of all such boards this one is */
    const lw_channel *channels;
    uint8_t n_channels;
    uint32_t rate_num; /* rows a second, as a fraction; 0: irregular, each row is sent at once with its own time */
    uint32_t rate_den;
    uint16_t boot_id;     /* another one at each boot: random, or counted in non-volatile memory */
    uint8_t *buffer;      /* one frame is built here */
    uint16_t buffer_size; /* bytes */
    uint32_t hold_us;     /* longest that a row waits for its frame to fill; 0: 50 ms */
    uint32_t hello_us;    /* interval of Hello; 0: 3 s */

    void *user; /* handed to each callback */
    /* Sends n bytes, all or none; false: not sent, the frame is lost and the host will know. They are only valid now. */
    bool (*write)(void *user, const uint8_t *bytes, size_t n);
    /* A microsecond counter that wraps at 2^32. */
    uint32_t (*now_us)(void *user);
    /* May be null. START, STOP and SET_RATE, before they take effect: they do so if the answer is LW_OK. A rate may be
     * corrected to what the board can do. Without it START and STOP are granted and SET_RATE is not. */
    lw_status (*command)(void *user, lw_op op, uint32_t *rate_num, uint32_t *rate_den);
    /* May be null: REBOOT is then not granted. Called after the acknowledgement was written. */
    void (*reboot)(void *user);
} lw_config;

/* Undoes the framing, one byte at a time. */
typedef struct {
    uint8_t raw[LW_RX_MAX]; /* a body and its CRC */
    uint16_t n;
    uint8_t code; /* of the block that is being read, 0: none */
    uint8_t left; /* bytes of it to come */
    bool oversize;
    uint32_t damage[LW_N_DAMAGES];
} lw_decoder;

typedef struct {
    uint8_t *bytes;
    uint16_t n; /* more than max: it does not fit */
    uint16_t max;
} lw_body;

typedef struct {
    lw_config config;
    bool begun;
    bool running; /* between START and STOP */
    uint16_t config_id;
    uint16_t seq;
    uint32_t index;    /* of the next row */
    uint32_t hello_at; /* when the last Hello was sent */
    lw_body body;      /* being built within config.buffer, */
    uint16_t gap;      /* this far from its start */
    uint16_t n_rows;   /* in it */
    uint8_t format;    /* of these */
    uint32_t first_us; /* when the first of these was sampled */
    lw_decoder decoder;
    uint32_t n_unsent; /* frames that write did not take */
    uint32_t refused[LW_N_CAUSES];
} lw_board;

/* Size of a buffer for frames of at least n_rows rows; a Hello needs about 50 bytes and 20 for each channel. */
#define LW_BUFFER_FOR(n_rows, n_channels, value_bytes)                                                                 \
    (28u + (n_rows) * (n_channels) * (value_bytes) + (24u + (n_rows) * (n_channels) * (value_bytes)) / 254u)

/* ---- framing ---- */

/* CRC-32/ISO-HDLC of n bytes, going on from crc; 0 begins. */
static inline uint32_t lw_crc32(uint32_t crc, const uint8_t *bytes, size_t n) {
    static const uint32_t table[16] = {0x00000000u, 0x1DB71064u, 0x3B6E20C8u, 0x26D930ACu, 0x76DC4190u, 0x6B6B51F4u,
                                       0x4DB26158u, 0x5005713Cu, 0xEDB88320u, 0xF00F9344u, 0xD6D6A3E8u, 0xCB61B38Cu,
                                       0x9B64C2B0u, 0x86D3D2D4u, 0xA00AE278u, 0xBDBDF21Cu};
    crc = ~crc;
    for (size_t i = 0; i < n; i++) {
        crc ^= bytes[i];
        crc = (crc >> 4) ^ table[crc & 15u];
        crc = (crc >> 4) ^ table[crc & 15u];
    }
    return ~crc;
}

/* COBS of n bytes, at most n + n / 254 + 1; returns how many. `out` may lie that overhead or more before `in`. */
static inline size_t lw_stuff(uint8_t *out, const uint8_t *in, size_t n) {
    size_t code_at = 0;
    size_t at = 1;
    uint8_t code = 1;
    for (size_t i = 0; i < n; i++) {
        const uint8_t byte = in[i];
        if (byte != 0) {
            out[at++] = byte;
            code++;
        }
        if (byte == 0 || (code == 0xFF && i + 1 < n)) {
            out[code_at] = code;
            code_at = at++;
            code = 1;
        }
    }
    out[code_at] = code;
    return at;
}

/* Takes one byte. Returns the size of the body that it completes, which is then at decoder->raw until the next byte;
 * 0: none. A zeroed lw_decoder is ready. */
static inline size_t lw_decode(lw_decoder *decoder, uint8_t byte) {
    if (byte != 0) {
        bool literal = decoder->left > 0;
        bool store = literal || (decoder->code != 0 && decoder->code != 0xFF);
        if (store) {
            if (decoder->n < LW_RX_MAX) {
                decoder->raw[decoder->n++] = literal ? byte : 0;
            } else {
                decoder->oversize = true;
            }
        }
        if (literal) {
            decoder->left--;
        } else {
            decoder->code = byte;
            decoder->left = (uint8_t)(byte - 1);
        }
        return 0;
    }
    const size_t n = decoder->n;
    const bool any = decoder->code != 0;
    const bool oversize = decoder->oversize;
    const bool cut = decoder->left > 0;
    decoder->n = 0;
    decoder->code = decoder->left = 0;
    decoder->oversize = false;
    if (!any) {
        return 0; /* two delimiters in a row */
    }
    lw_damage damage = LW_BAD_CRC;
    if (oversize) {
        damage = LW_OVERSIZE;
    } else if (cut) {
        damage = LW_BAD_COBS;
    } else if (n <= 4) {
        damage = LW_SHORT;
    } else if (lw_crc32(0, decoder->raw, n) == 0x2144DF1Cu) { /* that of any bytes and their own CRC */
        return n - 4;
    }
    decoder->damage[damage]++;
    return 0;
}

/* ---- numbers and texts, little-endian ---- */

static inline uint16_t lw_get16_(const uint8_t *at) {
    return (uint16_t)(at[0] | (uint16_t)((uint16_t)at[1] << 8));
}

static inline uint32_t lw_get32_(const uint8_t *at) {
    return lw_get16_(at) | (uint32_t)lw_get16_(at + 2) << 16;
}

static inline void lw_put8_(lw_body *body, uint8_t x) {
    if (body->n < body->max) {
        body->bytes[body->n] = x;
    }
    body->n++;
}

static inline void lw_put16_(lw_body *body, uint16_t x) {
    lw_put8_(body, (uint8_t)(x & 0xFFu));
    lw_put8_(body, (uint8_t)(x >> 8));
}

static inline void lw_put32_(lw_body *body, uint32_t x) {
    lw_put16_(body, (uint16_t)(x & 0xFFFFu));
    lw_put16_(body, (uint16_t)(x >> 16));
}

static inline void lw_put_float_(lw_body *body, float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    lw_put32_(body, bits);
}

static inline void lw_put_text_(lw_body *body, const char *text, size_t n) {
    lw_put8_(body, (uint8_t)n);
    for (size_t i = 0; i < n; i++) {
        lw_put8_(body, (uint8_t)text[i]);
    }
}

static inline size_t lw_length_(const char *text) {
    return text == NULL ? 0 : strlen(text);
}

static inline uint32_t lw_now_(lw_board *board) {
    return board->config.now_us == NULL ? 0 : board->config.now_us(board->config.user);
}

/* ---- frames out ---- */

/* Body of `type` in `body`, which lies `gap` bytes after `frame`: header, CRC, COBS in place, and out. */
static inline void lw_send_(lw_board *board, lw_type type, lw_body *body, uint8_t *frame, uint16_t gap) {
    const uint16_t n = body->n;
    uint8_t *raw = frame + gap;
    body->n = 0;
    lw_put8_(body, LW_MAJOR << 4 | LW_MINOR);
    lw_put8_(body, (uint8_t)type);
    lw_put16_(body, board->seq++);
    body->n = n;
    body->max = (uint16_t)(body->max + 4);
    lw_put32_(body, lw_crc32(0, raw, n));
    body->max = (uint16_t)(body->max - 4);
    const size_t stuffed = lw_stuff(frame + 1, raw, body->n);
    frame[0] = frame[1 + stuffed] = 0;
    if (!board->config.write(board->config.user, frame, stuffed + 2)) {
        board->n_unsent++;
    }
}

/* Sends the rows that wait. */
static inline void lw_flush(lw_board *board) {
    const uint16_t n_rows = board->n_rows;
    if (n_rows == 0) {
        return;
    }
    lw_body *body = &board->body;
    const uint16_t n = body->n;
    board->n_rows = 0;
    body->n = 4;
    lw_put16_(body, board->config_id);
    lw_put8_(body, board->format);
    lw_put8_(body, board->config.n_channels);
    lw_put16_(body, n_rows);
    lw_put16_(body, 0);
    lw_put32_(body, board->first_us);
    lw_put32_(body, board->index - n_rows);
    body->n = n;
    lw_send_(board, LW_SAMPLES, body, board->config.buffer, board->gap);
}

/* Says what the board is and sends; false: it does not fit. */
static inline bool lw_hello_(lw_board *board) {
    const lw_config *config = &board->config;
    lw_body *body = &board->body;
    lw_flush(board);
    board->hello_at = lw_now_(board);
    body->n = 4;
    lw_put16_(body, board->config_id);
    lw_put8_(body, config->n_channels);
    lw_put8_(body, 0);
    lw_put32_(body, config->rate_num);
    lw_put32_(body, config->rate_num == 0 ? 1 : config->rate_den);
    lw_put32_(body, board->hello_at);
    lw_put_text_(body, config->firmware, lw_length_(config->firmware));
    lw_put_text_(body, config->version, lw_length_(config->version));
    lw_put_text_(body, config->serial, lw_length_(config->serial));
    for (uint8_t i = 0; i < config->n_channels; i++) {
        const lw_channel *channel = &config->channels[i];
        lw_put_text_(body, channel->name, lw_length_(channel->name));
        lw_put_text_(body, channel->unit, lw_length_(channel->unit));
        lw_put_float_(body, channel->scale);
        lw_put_float_(body, channel->offset);
    }
    if (body->n > body->max) {
        return false;
    }
    lw_send_(board, LW_HELLO, body, config->buffer, board->gap);
    return true;
}

/* A log line or a fault code, with the time of now. Cut, between characters, to what fits. */
static inline void lw_event(lw_board *board, lw_severity severity, uint16_t code, const char *text) {
    if (!board->begun) {
        return;
    }
    lw_body *body = &board->body;
    lw_flush(board);
    body->n = 4;
    lw_put32_(body, lw_now_(board));
    lw_put16_(body, code);
    lw_put8_(body, (uint8_t)severity);
    size_t room = (size_t)(body->max - body->n - 1);
    size_t n = lw_length_(text);
    room = room < 255 ? room : 255;
    if (n > room) {
        n = room;
        while (n > 0 && ((uint8_t)text[n] & 0xC0u) == 0x80u) {
            n--;
        }
    }
    lw_put_text_(body, text, n);
    lw_send_(board, LW_EVENT, body, board->config.buffer, board->gap);
}

/* ---- rows ---- */

/* One row of n_channels values, 2 or 4 bytes each as `format` says, sampled at `us`. Nothing while stopped. */
static inline void lw_push(lw_board *board, lw_format format, const void *row, uint32_t us) {
    lw_body *body = &board->body;
    if (!board->running) {
        return;
    }
    if (board->n_rows > 0 && board->format != (uint8_t)format) {
        lw_flush(board);
    }
    if (board->n_rows == 0) {
        board->format = (uint8_t)format;
        board->first_us = us;
        body->n = 20;
    }
    const uint8_t *at = (const uint8_t *)row;
    const uint16_t begun_at = body->n;
    for (uint8_t i = 0; i < board->config.n_channels; i++) {
        if (format == LW_INT16) {
            uint16_t value;
            memcpy(&value, at, sizeof value);
            lw_put16_(body, value);
            at += sizeof value;
        } else {
            uint32_t value;
            memcpy(&value, at, sizeof value);
            lw_put32_(body, value);
            at += sizeof value;
        }
    }
    board->n_rows++;
    board->index++;
    const bool full = (uint16_t)(body->n + (body->n - begun_at)) > body->max;
    const bool old = (int32_t)(us - board->first_us) >= (int32_t)board->config.hold_us;
    if (full || old || board->config.rate_num == 0) {
        lw_flush(board);
    }
}

/* One row, sampled now. */
static inline void lw_push_i16(lw_board *board, const int16_t *row) {
    lw_push(board, LW_INT16, row, lw_now_(board));
}

static inline void lw_push_i32(lw_board *board, const int32_t *row) {
    lw_push(board, LW_INT32, row, lw_now_(board));
}

static inline void lw_push_f32(lw_board *board, const float *row) {
    lw_push(board, LW_FLOAT32, row, lw_now_(board));
}

/* n_rows were due and not sampled: the host counts them as lost, and the time of what follows stays right. */
static inline void lw_skip(lw_board *board, uint32_t n_rows) {
    if (board->running) {
        lw_flush(board);
        board->index += n_rows;
    }
}

/* ---- configuration ---- */

static inline lw_result lw_examine_(const lw_config *config) {
    if (config->write == NULL || config->now_us == NULL) {
        return LW_NO_CALLBACK;
    }
    if (config->rate_num != 0 && config->rate_den == 0) {
        return LW_BAD_RATE;
    }
    if (config->n_channels == 0 || config->n_channels > LW_MAX_CHANNELS || config->channels == NULL) {
        return LW_BAD_CHANNELS;
    }
    size_t longest = lw_length_(config->firmware) | lw_length_(config->version) | lw_length_(config->serial);
    for (uint8_t i = 0; i < config->n_channels; i++) {
        const lw_channel *channel = &config->channels[i];
        uint32_t scale;
        uint32_t offset;
        memcpy(&scale, &channel->scale, sizeof scale);
        memcpy(&offset, &channel->offset, sizeof offset);
        if (lw_length_(channel->name) == 0 || (scale & 0x7FFFFFFFu) == 0 || (scale & 0x7F800000u) == 0x7F800000u ||
            (offset & 0x7F800000u) == 0x7F800000u) {
            return LW_BAD_CHANNELS;
        }
        for (uint8_t k = 0; k < i; k++) {
            if (strcmp(channel->name, config->channels[k].name) == 0) {
                return LW_BAD_CHANNELS;
            }
        }
        longest |= lw_length_(channel->name) | lw_length_(channel->unit);
    }
    return longest > 255 ? LW_BAD_TEXT : LW_READY;
}

/* A new configuration, or the old one after a stop: rows are numbered anew. */
static inline lw_result lw_renew_(lw_board *board) {
    board->config_id = (uint16_t)(board->config_id + 0x9E37u);
    board->index = 0;
    return lw_hello_(board) ? LW_READY : LW_SMALL_BUFFER;
}

/* Changes the rate. The host is told by a new Hello. */
static inline lw_result lw_set_rate(lw_board *board, uint32_t rate_num, uint32_t rate_den) {
    if (!board->begun) {
        return LW_NO_CALLBACK;
    }
    if (rate_num != 0 && rate_den == 0) {
        return LW_BAD_RATE;
    }
    lw_flush(board);
    board->config.rate_num = rate_num;
    board->config.rate_den = rate_den;
    return lw_renew_(board);
}

/* Begins: sends a Hello, and takes rows from now on. On anything but LW_READY nothing is ever sent. Also for other
 * channels without a boot, with another boot_id. */
static inline lw_result lw_begin(lw_board *board, const lw_config *config) {
    memset(board, 0, sizeof *board);
    board->config = *config;
    lw_result result = lw_examine_(config);
    if (result != LW_READY) {
        return result;
    }
    if (board->config.hold_us == 0) {
        board->config.hold_us = 50000;
    }
    if (board->config.hello_us == 0) {
        board->config.hello_us = 3000000;
    }
    /* The largest body so that body + CRC + COBS + two delimiters fit, the stuffed form running ahead of nothing. */
    const uint16_t size = config->buffer_size;
    if (config->buffer == NULL || size < LW_BUFFER_FOR(1u, (uint16_t)config->n_channels, 4u)) {
        return LW_SMALL_BUFFER;
    }
    const uint16_t room = (uint16_t)(size - 3);
    uint16_t raw = (uint16_t)(room - 1 - room / 255);
    raw = raw < LW_MAX_BODY + 4 ? raw : (uint16_t)(LW_MAX_BODY + 4);
    board->gap = (uint16_t)(raw / 254 + 2);
    board->body.bytes = config->buffer + board->gap;
    board->body.max = (uint16_t)(raw - 4);
    board->config_id = config->boot_id;
    if (!lw_hello_(board)) {
        return LW_SMALL_BUFFER;
    }
    board->begun = board->running = true;
    return LW_READY;
}

/* ---- what the host sends ---- */

/* A body of at most 16 bytes, beside the rows that wait. */
static inline void lw_answer_(lw_board *board, lw_type type, const uint8_t *payload, uint8_t n) {
    uint8_t frame[2 + 4 + 12 + 4 + 1];
    lw_body body = {frame + 2, 4, 16};
    for (uint8_t i = 0; i < n; i++) {
        lw_put8_(&body, payload[i]);
    }
    lw_send_(board, type, &body, frame, 2);
}

static inline void lw_command_(lw_board *board, const uint8_t *body) {
    lw_config *config = &board->config;
    const uint8_t op = body[6];
    uint32_t rate_num = lw_get32_(body + 8);
    uint32_t rate_den = lw_get32_(body + 12);
    uint8_t ack[4] = {body[4], body[5], op, LW_UNSUPPORTED};
    if (op == LW_SET_RATE && rate_num == 0) {
        ack[3] = LW_BAD_ARGUMENT;
    } else if (op == LW_START || op == LW_STOP || op == LW_SET_RATE) {
        lw_flush(board);
        if (config->command != NULL) {
            ack[3] = (uint8_t)config->command(config->user, (lw_op)op, &rate_num, &rate_den);
        } else if (op != LW_SET_RATE) {
            ack[3] = LW_OK;
        }
    } else if (op == LW_IDENTIFY || (op == LW_REBOOT && config->reboot != NULL)) {
        ack[3] = LW_OK;
        lw_flush(board);
    }
    lw_answer_(board, LW_ACK, ack, 4);
    if (ack[3] != LW_OK) {
        return;
    }
    switch (op) {
    case LW_START:
        if (!board->running) {
            board->running = true;
            (void)lw_renew_(board);
        }
        break;
    case LW_STOP:
        board->running = false;
        break;
    case LW_SET_RATE:
        (void)lw_set_rate(board, rate_num, rate_den);
        break;
    case LW_IDENTIFY:
        (void)lw_hello_(board);
        break;
    default:
        config->reboot(config->user);
    }
}

/* A body of n bytes in the decoder that was complete by `now`. */
static inline void lw_received_(lw_board *board, size_t n, uint32_t now) {
    const uint8_t *body = board->decoder.raw;
    if (n < 4) {
        board->refused[LW_MALFORMED]++;
    } else if (body[0] >> 4 != LW_MAJOR) {
        board->refused[LW_UNKNOWN_VERSION]++;
    } else if (body[1] == LW_TIME_SYNC && n >= 16 && body[4] <= 1) {
        if (body[4] == 0) { /* a question; an answer is our own, echoed */
            uint8_t reply[12];
            lw_body out = {reply, 0, sizeof reply};
            lw_put16_(&out, 1);
            lw_put16_(&out, lw_get16_(body + 6));
            lw_put32_(&out, now);
            lw_put32_(&out, lw_now_(board));
            lw_answer_(board, LW_TIME_SYNC, reply, sizeof reply);
        }
    } else if (body[1] == LW_COMMAND && n >= 16 && lw_get32_(body + 12) != 0) {
        lw_command_(board, body);
    } else if (body[1] == LW_TIME_SYNC || body[1] == LW_COMMAND) {
        board->refused[LW_MALFORMED]++;
    } else if (body[1] == 0 || body[1] > LW_ACK) {
        board->refused[LW_UNKNOWN_TYPE]++;
    }
}

/* Call it in the main loop, with what came from the host since: n may be 0. Answers, sends rows that have waited long
 * enough, and says Hello now and then. Call it soon after the bytes came: that is when their time is taken. */
static inline void lw_poll(lw_board *board, const uint8_t *bytes, size_t n) {
    if (!board->begun) {
        return;
    }
    const uint32_t now = lw_now_(board);
    for (size_t i = 0; i < n; i++) {
        const size_t size = lw_decode(&board->decoder, bytes[i]);
        if (size > 0) {
            lw_received_(board, size, now);
        }
    }
    if (board->n_rows > 0 && (int32_t)(now - board->first_us) >= (int32_t)board->config.hold_us) {
        lw_flush(board);
    }
    if ((int32_t)(now - board->hello_at) >= (int32_t)board->config.hello_us) {
        (void)lw_hello_(board);
    }
}

#endif
