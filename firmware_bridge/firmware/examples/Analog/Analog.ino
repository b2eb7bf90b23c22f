/* Samples three analogue inputs, an analogue accelerometer such as the ADXL335 say, and streams them to a Linewatch
 * gateway over the serial port. SPDX-License-Identifier: Apache-2.0 */
#include <linewatch.h>

static const uint8_t PINS[3] = {A0, A1, A2};

/* ADXL335 at 5 V on a converter of 10 bits: 300 mV a g, 1.65 V at rest. */
static const float PER_COUNT = 5.0f / 1023.0f / 0.3f * 9.80665f;
static const float AT_REST = -1.65f / 0.3f * 9.80665f;
static const lw_channel CHANNELS[3] = {
    {"x", "m/s2", PER_COUNT, AT_REST},
    {"y", "m/s2", PER_COUNT, AT_REST},
    {"z", "m/s2", PER_COUNT, AT_REST},
};

static uint8_t buffer[160];
static lw_board board;
static uint16_t config_id;
static uint32_t due_us; /* when the next row is to be sampled */

/* Serial.write waits where more than 63 bytes are under way, and rows would be missed meanwhile. So frames wait here,
 * and loop() hands over what Serial has room for. */
static uint8_t queue[256];
static uint8_t queue_in, queue_out; /* wrap at 256 by themselves */

static bool send(void *, const uint8_t *bytes, size_t n) {
  if (n > 255u - (uint8_t)(queue_in - queue_out)) {
    return false; /* the line is too slow for this rate: the gateway counts the rows */
  }
  while (n-- > 0) {
    queue[queue_in++] = *bytes++;
  }
  return true;
}

static void drain() {
  int room = Serial.availableForWrite();
  while (room-- > 0 && queue_in != queue_out) {
    Serial.write(queue[queue_out++]);
  }
}

static uint32_t now_us(void *) {
  return micros();
}

static lw_status command(void *, lw_op op, uint32_t *rate_num, uint32_t *rate_den) {
  /* An Uno at 115200 baud can do 500 rows a second. */
  if (op == LW_SET_RATE && (*rate_num / *rate_den > 500 || *rate_den / *rate_num > 60)) {
    return LW_BAD_ARGUMENT;
  }
  return LW_OK;
}

/* Another number at each boot, from the noise of an open input. A counter in EEPROM is better where there is one. */
static uint16_t boot_id() {
  uint16_t id = 1;
  for (uint8_t i = 0; i < 64; i++) {
    id = (uint16_t)(id * 31u + (uint16_t)analogRead(A3));
  }
  return id;
}

void setup() {
  Serial.begin(115200);
  lw_config config = lw_config();
  config.firmware = "linewatch-analog";
  config.version = "1.0.0";
  config.serial = "analog-1"; /* give each board one of its own */
  config.channels = CHANNELS;
  config.n_channels = 3;
  config.rate_num = 200; /* rows a second */
  config.rate_den = 1;
  config.boot_id = boot_id();
  config.buffer = buffer;
  config.buffer_size = sizeof buffer;
  config.hold_us = 20000; /* short frames: the checksum of a long one would take longer than a row on 8 bits */
  config.write = send;
  config.now_us = now_us;
  config.command = command;
  if (lw_begin(&board, &config) != LW_READY) {
    pinMode(LED_BUILTIN, OUTPUT);
    for (;;) { /* the configuration is not valid: blink */
      digitalWrite(LED_BUILTIN, millis() / 100 % 2);
    }
  }
  lw_event(&board, LW_INFO, 1, "booted");
  config_id = board.config_id;
  due_us = micros();
}

void loop() {
  uint8_t bytes[16];
  uint8_t n = 0;
  while (n < sizeof bytes && Serial.available() > 0) {
    bytes[n++] = (uint8_t)Serial.read();
  }
  lw_poll(&board, bytes, n);
  drain();

  if (board.config_id != config_id) { /* another rate, or a new start */
    config_id = board.config_id;
    due_us = micros();
  }
  const uint32_t behind_us = micros() - due_us;
  if (!board.running || (int32_t)behind_us < 0) {
    return;
  }
  const uint32_t period_us = (uint32_t)(1e6f * board.config.rate_den / board.config.rate_num);
  if (behind_us >= period_us) { /* too late for these: say so, and go on in step */
    const uint32_t missed = behind_us / period_us;
    lw_skip(&board, missed);
    due_us += missed * period_us;
  }
  int16_t row[3];
  for (uint8_t i = 0; i < 3; i++) {
    row[i] = (int16_t)analogRead(PINS[i]);
  }
  lw_push_i16(&board, row);
  due_us += period_us;
}
