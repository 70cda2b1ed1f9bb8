// Pose and draw a baked head in WebAssembly, four numbers at a time: the CPU backend once more
// (pipeline/render/cpu), with the same projection, cut-offs, order and blending.
//
// Memory is handed out once, by setup() for an avatar and by resize() for a picture; nothing is
// freed. Planes are rows of n numbers, n a multiple of 16.
//
// Letters: n Gaussians, m moving ones (the first), r shapes; u, v centre in pixels;
// p = PX dx + PY dy, q = QY dy: sigma in units of log 2 is p^2 + q^2.

#include <stddef.h>
#include <stdint.h>
#include <wasm_simd128.h>

typedef v128_t f4;
#define EXPORT(name) __attribute__((export_name(name)))
#define SPLAT(x) wasm_f32x4_splat(x)
#define ADD wasm_f32x4_add
#define SUB wasm_f32x4_sub
#define MUL wasm_f32x4_mul
#define DIV wasm_f32x4_div
#define MIN wasm_f32x4_pmin
#define MAX wasm_f32x4_pmax
#define SQRT wasm_f32x4_sqrt
#define AND wasm_v128_and
#define LOAD(at) wasm_v128_load(at)
#define STORE(at, x) wasm_v128_store(at, x)
#define MADD(a, b, c) ADD(MUL(a, b), c)

// pipeline/render/types.py
static const float NEAR = 0.01f, FAR = 1e10f, BLUR = 0.3f, MARGIN = 0.3f;
static const float MAX_ALPHA = 0.999f, MIN_ALPHA = 1.0f / 255.0f, MIN_TRANSMITTANCE = 1e-4f;
static const float LOG2_E = 1.4426950408889634f, LOG2_255 = 7.994353436858858f;

enum { TILE = 16, BLOCKS = 16, CHUNK = 64, CHANNELS = 6 };
enum { U, V, PX, PY, QY, LOG_OPACITY, RED, GREEN, BLUE, LIMIT, SLOPE_X, SLOPE_Y, RECORD };
enum { LARGE = 1 << 16 };

static int n, m, rank;
static float *planes;  // mean x y z, colour r g b of the pose; covariance xx xy xz yy yz zz; opacity
static float *base;    // mean x y z, colour r g b before any shape, n each
static int8_t *shapes; // channel, shape, moving Gaussian
static float *steps;   // of the shapes' bytes: shape, channel
static float *weights; // of the shapes
static float *records; // RECORD of each visible Gaussian, in the order of the file
static uint32_t *keys, *other_keys, *order, *other_order, *boxes;
static int visible;

static int width, height, across, down;
static float *background;
static uint32_t *heads, *tiles, *pairs, pair_room, *pixels;
static float *camera; // W and t by rows, fx fy cx cy

extern unsigned char __heap_base;
static size_t top;

static void *take(size_t bytes) {
  if (!top) top = (size_t)&__heap_base;
  size_t at = (top + 15) & ~(size_t)15;
  top = at + bytes + 64; // vectors are read a little beyond the end
  size_t have = __builtin_wasm_memory_size(0) << 16;
  if (top > have) {
    size_t pages = (top - have + 0xffff) >> 16;
    if (__builtin_wasm_memory_grow(0, pages) == (size_t)-1) __builtin_trap();
  }
  return (void *)at;
}

// Make room for an avatar. The page writes base, planes from the sixth on, shapes and steps.
EXPORT("setup") void setup(int gaussians, int moving, int shape_count) {
  n = (gaussians + 15) & ~15;
  m = (moving + 15) & ~15;
  rank = shape_count;
  planes = take(13 * n * sizeof(float));
  base = take(CHANNELS * n * sizeof(float));
  shapes = take((size_t)CHANNELS * rank * m);
  steps = take(CHANNELS * rank * sizeof(float));
  weights = take(rank * sizeof(float));
  records = take((size_t)n * RECORD * sizeof(float));
  keys = take(n * 4), other_keys = take(n * 4);
  order = take(n * 4), other_order = take(n * 4);
  boxes = take((size_t)n * 3 * 4);
  camera = take(16 * sizeof(float));
  background = take(4 * sizeof(float));
}

EXPORT("planes") float *planes_at(void) { return planes; }
EXPORT("base") float *base_at(void) { return base; }
EXPORT("shapes") int8_t *shapes_at(void) { return shapes; }
EXPORT("steps") float *steps_at(void) { return steps; }
EXPORT("weights") float *weights_at(void) { return weights; }
EXPORT("camera") float *camera_at(void) { return camera; }
EXPORT("background") float *background_at(void) { return background; }
EXPORT("pixels") uint32_t *pixels_at(void) { return pixels; }
EXPORT("padded") int padded(void) { return n; }
EXPORT("padded_moving") int padded_moving(void) { return m; }

// Make room for pictures up to a size.
EXPORT("resize") void resize(int most_pixels, int most_tiles) {
  pixels = take((size_t)most_pixels * 4);
  heads = take(most_tiles * 4);
  tiles = take((most_tiles + 1) * 4);
}

// Covariances of rotations (wxyz) and scales; rows of 4 and 3 numbers.
EXPORT("covariances") void covariances(const float *quats, const float *scales, int count) {
  for (int i = 0; i < count; i++) {
    float w = quats[4 * i], x = quats[4 * i + 1], y = quats[4 * i + 2], z = quats[4 * i + 3];
    float s = 1.0f / __builtin_sqrtf(w * w + x * x + y * y + z * z);
    w *= s, x *= s, y *= s, z *= s;
    float R[9] = {1 - 2 * (y * y + z * z), 2 * (x * y - w * z),     2 * (x * z + w * y),
                  2 * (x * y + w * z),     1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
                  2 * (x * z - w * y),     2 * (y * z + w * x),     1 - 2 * (x * x + y * y)};
    float v[3];
    for (int k = 0; k < 3; k++) v[k] = scales[3 * i + k] * scales[3 * i + k];
    int plane = 6;
    for (int a = 0; a < 3; a++)
      for (int b = a; b < 3; b++, plane++) {
        float sum = 0;
        for (int k = 0; k < 3; k++) sum += R[3 * a + k] * R[3 * b + k] * v[k];
        planes[plane * n + i] = sum;
      }
  }
}

EXPORT("room") void *room(int bytes) { return take(bytes); }

// Put the Gaussians where the weighted shapes take them.
EXPORT("pose") void pose(void) {
  for (int c = 0; c < CHANNELS; c++) {
    float *to = planes + c * n;
    const float *from = base + c * n;
    const f4 zero = SPLAT(0), one = SPLAT(1);
    for (int i = 0; i < m; i += 16) {
      f4 s0 = LOAD(from + i), s1 = LOAD(from + i + 4);
      f4 s2 = LOAD(from + i + 8), s3 = LOAD(from + i + 12);
      const int8_t *shape = shapes + (size_t)c * rank * m + i;
      for (int r = 0; r < rank; r++, shape += m) {
        f4 x = SPLAT(weights[r] * steps[r * CHANNELS + c]);
        v128_t bytes = LOAD(shape);
        v128_t low = wasm_i16x8_extend_low_i8x16(bytes), high = wasm_i16x8_extend_high_i8x16(bytes);
        s0 = MADD(x, wasm_f32x4_convert_i32x4(wasm_i32x4_extend_low_i16x8(low)), s0);
        s1 = MADD(x, wasm_f32x4_convert_i32x4(wasm_i32x4_extend_high_i16x8(low)), s1);
        s2 = MADD(x, wasm_f32x4_convert_i32x4(wasm_i32x4_extend_low_i16x8(high)), s2);
        s3 = MADD(x, wasm_f32x4_convert_i32x4(wasm_i32x4_extend_high_i16x8(high)), s3);
      }
      if (c >= 3) {
        s0 = MIN(one, MAX(zero, s0)), s1 = MIN(one, MAX(zero, s1));
        s2 = MIN(one, MAX(zero, s2)), s3 = MIN(one, MAX(zero, s3));
      }
      STORE(to + i, s0), STORE(to + i + 4, s1), STORE(to + i + 8, s2), STORE(to + i + 12, s3);
    }
    for (int i = m; i < n; i += 4) STORE(to + i, LOAD(from + i));
  }
}

static inline f4 floor4(f4 x) { return wasm_f32x4_floor(x); }

// Logarithm to base 2 of positive, normal numbers: 2^e m, and the atanh series of m.
static inline f4 log2_4(f4 x) {
  v128_t shifted = wasm_i32x4_sub(x, wasm_i32x4_splat(0x3F3504F3));
  v128_t exponent = wasm_i32x4_shr(shifted, 23);
  f4 mantissa = wasm_i32x4_sub(x, wasm_i32x4_shl(exponent, 23));
  f4 s = DIV(SUB(mantissa, SPLAT(1)), ADD(mantissa, SPLAT(1))), s2 = MUL(s, s);
  const float k = 2.8853900817779268f;
  f4 value = SPLAT(k / 9);
  value = MADD(value, s2, SPLAT(k / 7));
  value = MADD(value, s2, SPLAT(k / 5));
  value = MADD(value, s2, SPLAT(k / 3));
  value = MADD(value, s2, SPLAT(k));
  return MADD(value, s, wasm_f32x4_convert_i32x4(exponent));
}

// 2 to the power x, to 4 in 100,000, for x in [-100, 100].
static inline f4 exp2_4(f4 x) {
  const f4 magic = SPLAT(12582912.0f); // 1.5 * 2^23 pushes the fraction out of the significand
  f4 shifted = ADD(x, magic);
  f4 f = SUB(x, SUB(shifted, magic));
  f4 value = SPLAT(0.009618129107628477f);
  value = MADD(value, f, SPLAT(0.05550410866482158f));
  value = MADD(value, f, SPLAT(0.2402265069591007f));
  value = MADD(value, f, SPLAT(0.6931471805599453f));
  value = MADD(value, f, SPLAT(1.0f));
  return wasm_i32x4_add(value, wasm_i32x4_shl(shifted, 23));
}

// Which of 16 squares of pixel centres, a grid of 4 x 4, a Gaussian may reach: a bit for each.
// left, upper: first pixel centre less the Gaussian's centre; step: from square to square.
static inline int reaches(const float *r, float left, float upper, float step, float size) {
  const f4 zero = SPLAT(0), px = SPLAT(r[PX]), limit = SPLAT(r[LIMIT]);
  f4 x0 = ADD(SPLAT(left), MUL(SPLAT(step), wasm_f32x4_make(0, 1, 2, 3)));
  f4 x1 = ADD(x0, SPLAT(size));
  f4 near_x = MIN(MAX(zero, x0), x1);
  f4 p_near = MUL(px, near_x), slope_near = MUL(SPLAT(r[SLOPE_Y]), near_x);
  int bits = 0;
  for (int row = 0; row < 4; row++) {
    float y0 = upper + step * row, y1 = y0 + size;
    float near_y = y0 > 0 ? y0 : y1 < 0 ? y1 : 0;
    f4 best_x = MIN(MAX(SPLAT(r[SLOPE_X] * near_y), x0), x1);
    f4 p = MADD(px, best_x, SPLAT(r[PY] * near_y));
    f4 sigma = MADD(p, p, SPLAT(r[QY] * near_y * (r[QY] * near_y)));
    f4 best_y = MIN(MAX(slope_near, SPLAT(y0)), SPLAT(y1));
    f4 p2 = MADD(SPLAT(r[PY]), best_y, p_near), q2 = MUL(SPLAT(r[QY]), best_y);
    f4 sigma2 = MADD(p2, p2, MUL(q2, q2));
    f4 touched = wasm_v128_or(wasm_f32x4_le(sigma, limit), wasm_f32x4_le(sigma2, limit));
    bits |= wasm_i32x4_bitmask(touched) << (4 * row);
  }
  return bits;
}

// Project all Gaussians; keep those that may be seen in rows [first, last) of a picture.
EXPORT("project") int project(int w, int h, int first, int last) {
  width = w, height = h;
  across = (w + TILE - 1) / TILE, down = (last - first + TILE - 1) / TILE;
  const float *E = camera;
  const float fx = E[12], fy = E[13], cx = E[14], cy = E[15];
  const float over_x = MARGIN * 0.5f * w / fx, over_y = MARGIN * 0.5f * h / fy;
  const f4 low_x = SPLAT(-(cx / fx + over_x)), high_x = SPLAT((w - cx) / fx + over_x);
  const f4 low_y = SPLAT(-(cy / fy + over_y)), high_y = SPLAT((h - cy) / fy + over_y);
  const float root = __builtin_sqrtf(0.5f * LOG2_E);
  visible = 0;
  for (int i = 0; i < n; i += 4) {
#define PLANE(k) LOAD(planes + (k) * n + i)
#define ROW(k) ADD(MADD(SPLAT(E[k]), x, MUL(SPLAT(E[k + 1]), y)), \
                   MADD(SPLAT(E[k + 2]), z, SPLAT(E[k + 3])))
    f4 x = PLANE(0), y = PLANE(1), z = PLANE(2);
    f4 mx = ROW(0), my = ROW(4), mz = ROW(8);
    f4 rz = DIV(SPLAT(1), mz), sx = MUL(mx, rz), sy = MUL(my, rz);
    f4 kx = MIN(high_x, MAX(low_x, sx)), ky = MIN(high_y, MAX(low_y, sy));
    f4 gx = MUL(SPLAT(fx), rz), gy = MUL(SPLAT(fy), rz), jx = MUL(gx, kx), jy = MUL(gy, ky);
    f4 M[6], xx = PLANE(6), xy = PLANE(7), xz = PLANE(8), yy = PLANE(9), yz = PLANE(10),
             zz = PLANE(11);
    for (int k = 0; k < 3; k++) {
      M[k] = SUB(MUL(gx, SPLAT(E[k])), MUL(jx, SPLAT(E[8 + k])));
      M[3 + k] = SUB(MUL(gy, SPLAT(E[4 + k])), MUL(jy, SPLAT(E[8 + k])));
    }
#define SUM(p, q, s, t, v, o) ADD(MADD(p, q, MUL(s, t)), MUL(v, o))
    f4 q0 = SUM(M[0], xx, M[1], xy, M[2], xz), q1 = SUM(M[0], xy, M[1], yy, M[2], yz);
    f4 q2 = SUM(M[0], xz, M[1], yz, M[2], zz), q3 = SUM(M[3], xx, M[4], xy, M[5], xz);
    f4 q4 = SUM(M[3], xy, M[4], yy, M[5], yz), q5 = SUM(M[3], xz, M[4], yz, M[5], zz);
    f4 a = ADD(SUM(M[0], q0, M[1], q1, M[2], q2), SPLAT(BLUR));
    f4 b = SUM(M[0], q3, M[1], q4, M[2], q5);
    f4 c = ADD(SUM(M[3], q3, M[4], q4, M[5], q5), SPLAT(BLUR));
    f4 det = SUB(MUL(a, c), MUL(b, b)), opacity = PLANE(12);
    f4 u = MADD(sx, SPLAT(fx), SPLAT(cx)), v = MADD(sy, SPLAT(fy), SPLAT(cy));
    f4 fine = AND(AND(wasm_f32x4_ge(mz, SPLAT(NEAR)), wasm_f32x4_le(mz, SPLAT(FAR))),
                  AND(wasm_f32x4_gt(det, SPLAT(0)), wasm_f32x4_ge(opacity, SPLAT(MIN_ALPHA))));
    f4 logarithm = log2_4(wasm_v128_bitselect(opacity, SPLAT(1), fine));
    f4 limit = MADD(ADD(logarithm, SPLAT(LOG2_255)), SPLAT(1.0005f), SPLAT(0.0005f));
    f4 reach_x = ADD(SQRT(MUL(MUL(limit, a), SPLAT(2 / LOG2_E))), SPLAT(0.01f));
    f4 reach_y = ADD(SQRT(MUL(MUL(limit, c), SPLAT(2 / LOG2_E))), SPLAT(0.01f));
    f4 x0 = SUB(u, reach_x), x1 = ADD(u, reach_x), y0 = SUB(v, reach_y), y1 = ADD(v, reach_y);
    fine = AND(fine, AND(wasm_f32x4_gt(x1, SPLAT(0.5f)), wasm_f32x4_lt(x0, SPLAT(w - 0.5f))));
    fine = AND(fine, AND(wasm_f32x4_gt(y1, SPLAT(first + 0.5f)),
                         wasm_f32x4_lt(y0, SPLAT(last - 0.5f))));
    int bits = wasm_i32x4_bitmask(fine);
    if (!bits) continue;
    f4 p = MUL(SPLAT(root), SQRT(DIV(c, det)));
    float row[RECORD][4], edges[4][4], depth[4];
    STORE(row[U], u), STORE(row[V], v), STORE(row[PX], p);
    STORE(row[PY], wasm_f32x4_neg(DIV(MUL(p, b), c))), STORE(row[QY], DIV(SPLAT(root), SQRT(c)));
    STORE(row[LOG_OPACITY], logarithm), STORE(row[LIMIT], limit);
    STORE(row[RED], PLANE(3)), STORE(row[GREEN], PLANE(4)), STORE(row[BLUE], PLANE(5));
    STORE(row[SLOPE_X], DIV(b, c)), STORE(row[SLOPE_Y], DIV(b, a)), STORE(depth, mz);
    const f4 share = SPLAT(1.0f / TILE), half = SPLAT(0.5f), up = SPLAT(first + 0.5f);
    STORE(edges[0], MAX(SPLAT(0), floor4(MUL(SUB(x0, half), share))));
    STORE(edges[1], MIN(SPLAT(across - 1), floor4(MUL(SUB(x1, half), share))));
    STORE(edges[2], MAX(SPLAT(0), floor4(MUL(SUB(y0, up), share))));
    STORE(edges[3], MIN(SPLAT(down - 1), floor4(MUL(SUB(y1, up), share))));
    for (; bits; bits &= bits - 1) {
      int lane = __builtin_ctz(bits);
      float *to = records + (size_t)visible * RECORD;
      for (int k = 0; k < RECORD; k++) to[k] = row[k][lane];
      uint32_t bx = (uint32_t)edges[0][lane] | ((uint32_t)edges[1][lane] + 1) << 16;
      uint32_t by = (uint32_t)edges[2][lane] | ((uint32_t)edges[3][lane] + 1) << 16;
      boxes[3 * visible] = bx, boxes[3 * visible + 1] = by;
      union { float f; uint32_t u; } key = {depth[lane]};
      keys[visible] = key.u, order[visible] = visible;
      visible++;
    }
  }
  return visible;
}

// Order the visible from near to far: a stable radix sort of the depths' bits.
EXPORT("sort") uint32_t *sort(void) {
  enum { DIGIT = 11, SIZE = 1 << DIGIT };
  static uint32_t counts[3][SIZE];
  __builtin_memset(counts, 0, sizeof counts);
  for (int i = 0; i < visible; i++)
    for (int d = 0; d < 3; d++) counts[d][keys[i] >> (d * DIGIT) & (SIZE - 1)]++;
  for (int d = 0; d < 3; d++) {
    uint32_t *row = counts[d], total = 0, shift = d * DIGIT;
    if (visible && row[keys[0] >> shift & (SIZE - 1)] == (uint32_t)visible) continue;
    for (int k = 0; k < SIZE; k++) {
      uint32_t here = row[k];
      row[k] = total, total += here;
    }
    for (int i = 0; i < visible; i++) {
      uint32_t at = row[keys[i] >> shift & (SIZE - 1)]++;
      other_keys[at] = keys[i], other_order[at] = order[i];
    }
    uint32_t *k = keys, *o = order;
    keys = other_keys, other_keys = k, order = other_order, other_order = o;
  }
  return order;
}

// Write the visible from far to near, RECORD floats each, for a renderer that blends by itself.
EXPORT("sorted") float *sorted(void) {
  static float *out;
  static int room_for;
  if (room_for < n) out = take((size_t)n * RECORD * sizeof(float)), room_for = n;
  for (int i = 0; i < visible; i++) {
    const float *from = records + (size_t)order[visible - 1 - i] * RECORD;
    for (int k = 0; k < RECORD; k += 4) STORE(out + (size_t)i * RECORD + k, LOAD(from + k));
  }
  return out;
}

static void list_tiles(int first) {
  int count = across * down;
  __builtin_memset(heads, 0, count * 4);
  for (int i = 0; i < visible; i++) {
    uint32_t x0 = boxes[3 * i] & 0xffff, x1 = boxes[3 * i] >> 16;
    uint32_t y0 = boxes[3 * i + 1] & 0xffff, y1 = boxes[3 * i + 1] >> 16;
    uint32_t wide = x1 - x0, high = y1 - y0, bits = LARGE;
    if (wide > 4 || high > 4) {
      for (uint32_t y = y0; y < y1; y++)
        for (uint32_t x = x0; x < x1; x++) heads[y * across + x]++;
    } else {
      bits = ((1u << wide) - 1) * 0x1111 & ((1u << 4 * high) - 1);
      const float *r = records + (size_t)i * RECORD;
      if (wide > 1 && high > 1) // a single row or column is touched all along
        bits &= reaches(r, x0 * TILE + 0.5f - r[U], first + y0 * TILE + 0.5f - r[V], TILE, TILE - 1);
      for (uint32_t left = bits; left; left &= left - 1) {
        int b = __builtin_ctz(left);
        heads[(y0 + (b >> 2)) * across + x0 + (b & 3)]++;
      }
    }
    boxes[3 * i + 2] = bits;
  }
  uint32_t total = 0;
  for (int t = 0; t < count; t++) {
    tiles[t] = total, total += heads[t], heads[t] = tiles[t];
  }
  tiles[count] = total;
  if (total > pair_room) pair_room = total + total / 2, pairs = take((size_t)pair_room * 4);
  for (int k = 0; k < visible; k++) {
    uint32_t i = order[k], bits = boxes[3 * i + 2];
    uint32_t x0 = boxes[3 * i] & 0xffff, y0 = boxes[3 * i + 1] & 0xffff;
    if (bits == LARGE) {
      uint32_t x1 = boxes[3 * i] >> 16, y1 = boxes[3 * i + 1] >> 16;
      for (uint32_t y = y0; y < y1; y++)
        for (uint32_t x = x0; x < x1; x++) pairs[heads[y * across + x]++] = i;
      continue;
    }
    for (; bits; bits &= bits - 1) {
      int b = __builtin_ctz(bits);
      pairs[heads[(y0 + (b >> 2)) * across + x0 + (b & 3)]++] = i;
    }
  }
}

typedef struct { f4 T, c0, c1, c2; } Row; // of four pixels

// Blend one Gaussian into four pixels of a row; open is emptied where a pixel is finished.
static inline void blend_row(const float *r, f4 dx, float dy, Row *row, f4 *open) {
  float q = r[QY] * dy;
  f4 p = MADD(SPLAT(r[PX]), dx, SPLAT(r[PY] * dy));
  f4 power = SUB(SPLAT(r[LOG_OPACITY] - q * q), MUL(p, p));
  f4 drawn = AND(wasm_f32x4_ge(power, SPLAT(-LOG2_255)), *open);
  if (!wasm_v128_any_true(drawn)) return;
  f4 weight = MUL(row->T, MIN(exp2_4(power), SPLAT(MAX_ALPHA)));
  f4 left = SUB(row->T, weight), goes_on = wasm_f32x4_gt(left, SPLAT(MIN_TRANSMITTANCE));
  *open = wasm_v128_andnot(*open, wasm_v128_andnot(drawn, goes_on));
  drawn = AND(drawn, goes_on);
  weight = AND(weight, drawn);
  row->T = wasm_v128_bitselect(left, row->T, drawn);
  row->c0 = MADD(weight, SPLAT(r[RED]), row->c0);
  row->c1 = MADD(weight, SPLAT(r[GREEN]), row->c1);
  row->c2 = MADD(weight, SPLAT(r[BLUE]), row->c2);
}

static inline v128_t byte_of(f4 x) {
  x = MIN(SPLAT(1), MAX(SPLAT(0), x));
  return wasm_i32x4_trunc_sat_f32x4(MADD(x, SPLAT(255), SPLAT(0.5f)));
}

// RGBA bytes of four pixels; without background the colour is divided by the coverage.
static v128_t rgba(const Row *row) {
  f4 r = row->c0, g = row->c1, b = row->c2, cover = SUB(SPLAT(1), row->T), a = SPLAT(1);
  if (background[3] > 0) {
    r = MADD(row->T, SPLAT(background[0]), r);
    g = MADD(row->T, SPLAT(background[1]), g);
    b = MADD(row->T, SPLAT(background[2]), b);
  } else {
    f4 by = DIV(SPLAT(1), MAX(cover, SPLAT(1e-6f)));
    r = MUL(r, by), g = MUL(g, by), b = MUL(b, by), a = cover;
  }
  v128_t low = wasm_v128_or(byte_of(r), wasm_i32x4_shl(byte_of(g), 8));
  v128_t high = wasm_v128_or(wasm_i32x4_shl(byte_of(b), 16), wasm_i32x4_shl(byte_of(a), 24));
  return wasm_v128_or(low, high);
}

// Draw rows [first, last) of the projected, sorted picture into pixels, first at the beginning.
EXPORT("blend") void blend(int first, int last) {
  static uint64_t words[BLOCKS];
  static Row state[BLOCKS][4];
  static f4 open[BLOCKS][4];
  static float local[CHUNK * RECORD];
  list_tiles(first);
  const f4 steps_x = wasm_f32x4_make(0.5f, 1.5f, 2.5f, 3.5f);
  for (int tile = 0; tile < across * down; tile++) {
    int x = tile % across * TILE, y = first + tile / across * TILE;
    uint32_t alive = 0;
    for (int b = 0; b < BLOCKS; b++) {
      int bx = x + b % 4 * 4, by = y + b / 4 * 4;
      f4 inside = wasm_i32x4_lt(wasm_i32x4_add(wasm_i32x4_splat(bx), wasm_i32x4_make(0, 1, 2, 3)),
                                wasm_i32x4_splat(width));
      for (int k = 0; k < 4; k++) {
        state[b][k] = (Row){SPLAT(1), SPLAT(0), SPLAT(0), SPLAT(0)};
        open[b][k] = by + k < last ? inside : SPLAT(0);
      }
      if (bx < width && by < last) alive |= 1u << b;
    }
    for (uint32_t at = tiles[tile]; at < tiles[tile + 1] && alive; at += CHUNK) {
      int count = tiles[tile + 1] - at < CHUNK ? tiles[tile + 1] - at : CHUNK;
      __builtin_memset(words, 0, sizeof words);
      for (int k = 0; k < count; k++) {
        const float *r = records + (size_t)pairs[at + k] * RECORD;
        for (int j = 0; j < RECORD; j += 4) STORE(local + k * RECORD + j, LOAD(r + j));
        uint32_t bits = reaches(r, x + 0.5f - r[U], y + 0.5f - r[V], 4, 3) & alive;
        for (; bits; bits &= bits - 1) words[__builtin_ctz(bits)] |= 1ull << k;
      }
      for (int b = 0; b < BLOCKS; b++) {
        if (!words[b]) continue;
        int bx = x + b % 4 * 4, by = y + b / 4 * 4;
        f4 any = SPLAT(0);
        for (int half = 0; half < 4; half += 2) { // eight pixels at a time stay in registers
          Row r0 = state[b][half], r1 = state[b][half + 1];
          f4 o0 = open[b][half], o1 = open[b][half + 1];
          for (uint64_t word = words[b]; word; word &= word - 1) {
            const float *r = local + __builtin_ctzll(word) * RECORD;
            f4 dx = ADD(steps_x, SPLAT(bx - r[U]));
            float dy = by + half + 0.5f - r[V];
            blend_row(r, dx, dy, &r0, &o0);
            blend_row(r, dx, dy + 1, &r1, &o1);
          }
          state[b][half] = r0, state[b][half + 1] = r1;
          open[b][half] = o0, open[b][half + 1] = o1;
          any = wasm_v128_or(any, wasm_v128_or(o0, o1));
        }
        if (!wasm_v128_any_true(any)) alive &= ~(1u << b);
      }
    }
    for (int b = 0; b < BLOCKS; b++) {
      int bx = x + b % 4 * 4, by = y + b / 4 * 4;
      for (int k = 0; k < 4 && by + k < last && bx < width; k++) {
        v128_t four = rgba(&state[b][k]);
        uint32_t *to = pixels + (size_t)(by + k - first) * width + bx;
        if (bx + 4 <= width) STORE(to, four);
        else
          for (int j = 0; j < width - bx; j++) to[j] = ((uint32_t *)&four)[j];
      }
    }
  }
}
