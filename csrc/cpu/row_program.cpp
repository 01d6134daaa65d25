// Layers that treat the rows of a batch one by one, a tile of rows at a time: what lies between two
// layers stays in the caches, and threads meet only at the end of a program.
//
// Values are matrices of the tile's rows, side by side in a thread's memory. An instruction makes
// one of others, of tensors and of weights; tensors are [B, rows, width], fp32, a row contiguous.
// Rows beyond a video's length are not read, and outputs are 0 there.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "attention.h"
#include "bf16.h"
#include "parallel.h"
#include "products.h"
#include "sampling.h"
#include "sdst.h"

namespace sdst {
namespace {

constexpr int64_t kTile = 48;  // most rows: the values of so many fit into a core's own cache

// In the order of KINDS in kernels/row_program/native.py.
enum class Kind : int64_t { read, around, code, write, add, linear, norm, attend, ends, sample };

struct Tensor {
    void* data;
    int64_t video, row;  // numbers from one to the next
    int64_t rows;        // of a video

    float* at(int64_t v, int64_t r) const {
        return static_cast<float*>(data) + v * video + r * row;
    }
    int64_t length(int64_t v) const { return static_cast<const int64_t*>(data)[v]; }
};

struct Instruction {
    Kind kind;
    int64_t out, a, b;           // where values lie: numbers before them in a row of the memory;
                                 // b of a linear in bf16: space for its factors
    int64_t width, inner;        // of out, of a
    int64_t x, y, lengths;       // tensors: which are read (attended to, sampled), and of what size
    const float *weight, *bias;  // [width], or linear's weight [width / kPanel, inner, kPanel]
    int64_t heads, samples, relu;
    int64_t bf16;  // linear's weight is as bf16.h has it
};
static_assert(sizeof(Instruction) == 15 * sizeof(int64_t), "as Python packs it");

struct Program {
    const Instruction* instructions;
    int64_t count, memory;  // numbers in a row of a thread's memory
    const Tensor* tensors;
    const int64_t* lengths;  // [batch], rows of every video; null: all
    int64_t batch, rows;
    std::vector<int64_t> starts;  // rows before every video, and in all

    void count_rows() {
        starts.assign(1, 0);
        for (int64_t b = 0; b < batch; ++b)
            starts.push_back(starts.back() +
                             (lengths ? std::clamp<int64_t>(lengths[b], 0, rows) : rows));
    }

    // What no tile writes.
    void clear_padding() const {
        if (starts.back() == batch * rows) return;
        for (const Instruction* i = instructions; i < instructions + count; ++i) {
            if (i->kind != Kind::write) continue;
            const Tensor& out = tensors[i->x];
            for (int64_t b = 0; b < batch; ++b)
                for (int64_t r = starts[b + 1] - starts[b]; r < rows; ++r)
                    std::fill_n(out.at(b, r), i->width, 0.0f);
        }
    }
};

// Rows [first, first + rows) of a video, which are those from `at` on of a tile.
struct Part {
    int64_t video, first, rows, at;
};

class Tile {
 public:
    Tile(const Program& program, float* memory, int64_t begin, int64_t end)
        : program_(program), memory_(memory), rows_(end - begin) {
        const std::vector<int64_t>& starts = program.starts;
        int64_t video = std::upper_bound(starts.begin(), starts.end(), begin) - starts.begin() - 1;
        for (int64_t row = begin; row < end; ++video) {
            const int64_t last = std::min(end, starts[video + 1]);
            if (last > row) parts_.push_back({video, row - starts[video], last - row, row - begin});
            row = last;
        }
    }

    SDST_INLINE void run() {
        for (const Instruction* i = program_.instructions;
             i < program_.instructions + program_.count; ++i)
            run(*i);
    }

 private:
    float* value(int64_t place) const { return memory_ + place * kTile; }
    const Tensor& tensor(int64_t index) const { return program_.tensors[index]; }

    SDST_INLINE void run(const Instruction& i) {
        switch (i.kind) {
            case Kind::add:
                return add(i);
            case Kind::linear:
                return linear(i);
            case Kind::norm:
                return norm(i);
            default:
                for (const Part& part : parts_) run(i, part);
        }
    }

    SDST_INLINE void run(const Instruction& i, const Part& part) {
        switch (i.kind) {
            case Kind::read:
                return read(i, part);
            case Kind::around:
                return around(i, part);
            case Kind::code:
                return code(i, part);
            case Kind::write:
                return write(i, part);
            case Kind::attend:
                return attend(i, part);
            case Kind::ends:
                return ends(i, part);
            default:
                return sample(i, part);
        }
    }

    SDST_INLINE void read(const Instruction& i, const Part& part) {
        const int64_t row = whole_panels(i.width);
        float* out = value(i.out) + part.at * row;
        for (int64_t r = 0; r < part.rows; ++r, out += row)
            std::copy_n(tensor(i.x).at(part.video, part.first + r), i.width, out);
    }

    // A row of the tensor between its neighbours, zeros beyond the ends.
    SDST_INLINE void around(const Instruction& i, const Part& part) {
        const int64_t row = whole_panels(i.width), width = i.width / 3;
        const int64_t length = program_.starts[part.video + 1] - program_.starts[part.video];
        float* out = value(i.out) + part.at * row;
        for (int64_t r = 0; r < part.rows; ++r, out += row)
            for (int64_t side = 0; side < 3; ++side) {
                const int64_t from = part.first + r + side - 1;
                if (from < 0 || from >= length)
                    std::fill_n(out + side * width, width, 0.0f);
                else
                    std::copy_n(tensor(i.x).at(part.video, from), width, out + side * width);
            }
    }

    // Sines and cosines of every number of a row times the frequencies, `inner` of them.
    void code(const Instruction& i, const Part& part) {
        const int64_t row = whole_panels(i.width);
        float* out = value(i.out) + part.at * row;
        for (int64_t r = 0; r < part.rows; ++r, out += row) {
            const float* position = tensor(i.x).at(part.video, part.first + r);
            for (int64_t j = 0; j < i.width; j += 2 * i.inner)
                for (int64_t f = 0; f < i.inner; ++f) {
                    const float angle = position[j / (2 * i.inner)] * i.weight[f];
                    out[j + f] = std::sin(angle);
                    out[j + i.inner + f] = std::cos(angle);
                }
        }
    }

    SDST_INLINE void write(const Instruction& i, const Part& part) {
        const int64_t row = whole_panels(i.width);
        const float* in = value(i.a) + part.at * row;
        for (int64_t r = 0; r < part.rows; ++r, in += row)
            std::copy_n(in, i.width, tensor(i.x).at(part.video, part.first + r));
    }

    SDST_INLINE void add(const Instruction& i) {
        const float *a = value(i.a), *b = value(i.b);
        float* out = value(i.out);
        for (int64_t j = 0; j < rows_ * whole_panels(i.width); ++j) out[j] = a[j] + b[j];
    }

    SDST_INLINE void linear(const Instruction& i) {
        const int64_t in_row = whole_panels(i.inner), out_row = whole_panels(i.width);
        if (i.bf16) {
            const Bf16Layer layer{i.inner, out_row, reinterpret_cast<const uint16_t*>(i.weight),
                                  i.bias, i.relu != 0};
            return apply(layer, value(i.a), in_row, rows_, reinterpret_cast<uint16_t*>(value(i.b)),
                         value(i.out), out_row);
        }
        for (int64_t c = 0; c < out_row; c += kPanel) {
            float* out = value(i.out) + c;
            const Lanes left = load<Lanes>(i.bias + c), right = load<Lanes>(i.bias + c + 8);
            for (int64_t r = 0; r < rows_; ++r) {
                store<Lanes>(out + r * out_row, left);
                store<Lanes>(out + r * out_row + 8, right);
            }
            multiply({value(i.a), in_row}, i.weight + c * i.inner, kPanel, rows_, i.inner, kPanel,
                     out, out_row, true);
            if (!i.relu) continue;
            for (int64_t r = 0; r < rows_; ++r)
                for (int64_t j = 0; j < kPanel; ++j)
                    out[r * out_row + j] = std::max(out[r * out_row + j], 0.0f);
        }
    }

    SDST_INLINE void norm(const Instruction& i) {
        const int64_t row = whole_panels(i.width), whole = i.width / 8 * 8;
        const float size = static_cast<float>(i.width), epsilon = 1e-5f;
        for (int64_t r = 0; r < rows_; ++r) {
            const float* a = value(i.a) + r * row;
            float* out = value(i.out) + r * row;
            Lanes total = {};
            float rest = 0;
            for (int64_t j = 0; j < whole; j += 8) total += load<Lanes>(a + j);
            for (int64_t j = whole; j < i.width; ++j) rest += a[j];
            const float mean = (sum(total) + rest) / size;
            Lanes squares = {};
            rest = 0;
            for (int64_t j = 0; j < whole; j += 8) {
                const Lanes x = load<Lanes>(a + j) - mean;
                squares += x * x;
            }
            for (int64_t j = whole; j < i.width; ++j) rest += (a[j] - mean) * (a[j] - mean);
            const float factor = 1 / std::sqrt((sum(squares) + rest) / size + epsilon);
            for (int64_t j = 0; j < whole; j += 8)
                store<Lanes>(out + j,
                             (load<Lanes>(a + j) - mean) * factor * load<Lanes>(i.weight + j) +
                                 load<Lanes>(i.bias + j));
            for (int64_t j = whole; j < i.width; ++j)
                out[j] = (a[j] - mean) * factor * i.weight[j] + i.bias[j];
        }
    }

    void attend(const Instruction& i, const Part& part) {
        const Tensor &keys = tensor(i.x), &values = tensor(i.y);
        const int64_t row = whole_panels(i.width), channels = i.width / i.heads;
        const int64_t valid = i.lengths < 0 ? keys.rows : tensor(i.lengths).length(part.video);
        const Attention a{1,
                          i.heads,
                          part.rows,
                          keys.rows,
                          channels,
                          {value(i.a) + part.at * row, 0, row, channels},
                          {keys.at(part.video, 0), 0, keys.row, channels},
                          {values.at(part.video, 0), 0, values.row, channels},
                          nullptr,
                          &valid,
                          1 / std::sqrt(static_cast<float>(channels)),
                          row};
        sdst::attend(a, value(i.out) + part.at * row, 0, a.tasks());
    }

    // x [B, rows, 2] the references, y what is sampled: at their left ends, centres, right ends.
    void ends(const Instruction& i, const Part& part) {
        const Tensor &references = tensor(i.x), &source = tensor(i.y);
        const int64_t row = whole_panels(i.width);
        const int64_t length =
            std::clamp<int64_t>(tensor(i.lengths).length(part.video), 0, source.rows);
        const float zeros[3] = {};
        for (int64_t r = 0; r < part.rows; ++r) {
            const float* reference = references.at(part.video, part.first + r);
            float points[6] = {};
            for (int64_t end = 0; end < 3; ++end)
                points[2 * end] = std::clamp(
                    reference[0] + static_cast<float>(end - 1) * (reference[1] / 2), 0.0f, 1.0f);
            const Samplings samplings{{1, source.rows, 3, 1, i.width / 3, 1},
                                      source.at(part.video, 0),
                                      points,
                                      zeros,
                                      zeros,
                                      &length};
            sdst::sample(samplings, value(i.out) + (part.at + r) * row, 0, 3);
        }
    }

    // a [heads * samples] the offsets and b the logits; x and y as above.
    void sample(const Instruction& i, const Part& part) {
        const Tensor &references = tensor(i.x), &source = tensor(i.y);
        const int64_t length =
            std::clamp<int64_t>(tensor(i.lengths).length(part.video), 0, source.rows);
        const int64_t row = whole_panels(i.width), scalars = whole_panels(i.heads * i.samples);
        for (int64_t r = 0; r < part.rows; ++r) {
            const int64_t at = part.at + r;
            const Samplings samplings{{1, source.rows, 1, i.heads, i.width / i.heads, i.samples},
                                      source.at(part.video, 0),
                                      references.at(part.video, part.first + r),
                                      value(i.a) + at * scalars,
                                      value(i.b) + at * scalars,
                                      &length};
            sdst::sample(samplings, value(i.out) + at * row, 0, 1);
        }
    }

    const Program& program_;
    float* memory_;
    int64_t rows_;
    std::vector<Part> parts_;
};

SDST_MULTIVERSION void run_tile(Tile& tile) { tile.run(); }

}  // namespace
}  // namespace sdst

SDST_API void sdst_row_program(const void* instructions, int64_t count, int64_t memory,
                               const void* tensors, const int64_t* lengths, int64_t batch,
                               int64_t rows, int32_t threads) {
    sdst::Program program{static_cast<const sdst::Instruction*>(instructions),
                          count,
                          memory,
                          static_cast<const sdst::Tensor*>(tensors),
                          lengths,
                          batch,
                          rows,
                          {}};
    program.count_rows();
    program.clear_padding();
    const int64_t total = program.starts.back();
    // No smaller than needed for every thread to have one, and all about equal.
    const int64_t tiles = std::min(total, std::max<int64_t>((total + sdst::kTile - 1) / sdst::kTile,
                                                            std::min<int64_t>(threads, total)));
    sdst::parallel_for(tiles, 1, threads, [&](int64_t begin, int64_t end) {
        // Kept from call to call: fresh pages would cost more than a small program.
        static thread_local std::vector<float> scratch;
        if (scratch.size() < static_cast<size_t>(memory * sdst::kTile))
            scratch.resize(memory * sdst::kTile);
        for (int64_t t = begin; t < end; ++t) {
            sdst::Tile tile(program, scratch.data(), total * t / tiles, total * (t + 1) / tiles);
            sdst::run_tile(tile);
        }
    });
}
