// Row quantisation and integer matrix products: codes, accumulators to the bit in both tiers,
// outputs.
#include <fmt/format.h>
#include <bit>
#include <cmath>
#include <optional>

#include "format/bit_packing.hpp"
#include "format/safetensors.hpp"
#include "kernels/copy.hpp"
#include "support.hpp"

namespace quantsparse::tests {
namespace {

struct Case {
    int m, n, k;
    int weight_bits, activation_bits;
    bool extreme = false;  ///< every code at the end of its range

    std::string text() const {
        return fmt::format("{}x{}x{} W{}A{}{}", m, n, k, weight_bits, activation_bits,
                           extreme ? " extreme" : "");
    }
};

struct Input {
    Case c;
    std::vector<float> x, bias, weight_scale;
    std::vector<std::int8_t> weight;
};

struct Outcome {
    std::vector<std::int8_t> codes;
    std::vector<float> scales;
    std::vector<std::int32_t> row_sums, sums;
    std::vector<float> out;
};

/// Handles of one case in a program.
struct Handles {
    Matrix x, sums, out;
    Tensor codes, scales, row_sums;
    kernels::QuantizedWeight weight;
    int words = 0;
};

class QuantizedTest : public DeviceTest {
  protected:
    Input make(const Case& c) {
        Input input{c, random(c.m, c.k), random(1, c.n), random(1, c.n), {}};
        for (float& s : input.weight_scale) s = 0.01f + 0.01f * std::abs(s);
        const int highest = (1 << (c.weight_bits - 1)) - 1, lowest = -highest - 1;
        input.weight.resize(static_cast<std::size_t>(c.n) * static_cast<std::size_t>(c.k));
        for (std::size_t i = 0; i < input.weight.size(); ++i) {
            // Extreme: the first column of outputs has the largest sum that can be.
            const bool low = i < static_cast<std::size_t>(c.k) || random_int(0, 1);
            input.weight[i] = static_cast<std::int8_t>(c.extreme ? low ? lowest : highest
                                                                 : random_int(lowest, highest));
        }
        if (c.extreme) {
            for (std::size_t i = 0; i < input.x.size(); ++i) {
                const bool first_row = i < static_cast<std::size_t>(c.k);
                input.x[i] = first_row || random_int(0, 1) ? 1.0f : -1.0f;
            }
        }
        return input;
    }

    std::vector<Outcome> run(const std::vector<Input>& inputs, Arithmetic arithmetic,
                             std::uint32_t lanes = 0, std::uint32_t product_rows = 0) {
        program::Limits tile = limits(arithmetic);
        tile.product_lanes = lanes;
        tile.product_rows = product_rows;
        Program program(tile);
        std::vector<Handles> handles;
        for (const auto& [c, x, bias, weight_scale, weight] : inputs) {
            Handles h;
            h.words = format::packed_k(c.k) / 4;
            h.x = add_kept_matrix(program, "x", c.m, c.k);
            h.sums = add_kept_matrix(program, "sums", c.m, c.n);
            h.out = add_kept_matrix(program, "out", c.m, c.n);
            const auto kept = [&](const char* name, int count) {
                return program.add(name, static_cast<std::uint64_t>(count) * 4,
                                   Lifetime::persistent);
            };
            h.codes = kept("codes", c.m * h.words);
            h.scales = kept("scales", c.m);
            h.row_sums = kept("row_sums", c.m);
            h.weight = kernels::add_quantized_weight(program, "w", c.n, c.k, c.weight_bits, true);
            const auto rows =
                kernels::quantize_rows(program, "quantize", h.x, {}, c.activation_bits);
            kernels::keep_bits(program, rows.words, h.codes, c.m * h.words);
            kernels::keep_bits(program, rows.scales, h.scales, c.m);
            kernels::keep_bits(program, rows.row_sums, h.row_sums, c.m);
            kernels::matmul(program, "accumulate", rows, h.weight, h.sums, {}, true);
            kernels::matmul(program, "linear", rows, h.weight, h.out);
            handles.push_back(h);
        }
        Executor executor = executor_for(program);
        for (std::size_t i = 0; i < inputs.size(); ++i) {
            const Input& input = inputs[i];
            const Handles& h = handles[i];
            write_matrix(executor, h.x, input.x);
            const auto words =
                format::pack_weight_codes(input.weight, input.c.n, input.c.k, input.c.weight_bits);
            executor.write_values(h.weight.words, std::span<const std::uint32_t>(words));
            write_tensor(executor, h.weight.scale, input.weight_scale);
            write_tensor(executor, h.weight.bias, input.bias);
        }
        executor.run(0);
        std::vector<Outcome> outcomes;
        for (std::size_t i = 0; i < inputs.size(); ++i) {
            const Case& c = inputs[i].c;
            const Handles& h = handles[i];
            const std::size_t m = static_cast<std::size_t>(c.m);
            Outcome outcome;
            outcome.codes = format::unpack_activation_codes(
                executor.read_values<std::uint32_t>(h.codes, m * static_cast<std::size_t>(h.words)),
                c.m, c.k);
            outcome.scales = executor.read_values<float>(h.scales, m);
            outcome.row_sums = executor.read_values<std::int32_t>(h.row_sums, m);
            outcome.sums = read_matrix<std::int32_t>(executor, h.sums);
            outcome.out = read_matrix<float>(executor, h.out);
            outcomes.push_back(std::move(outcome));
        }
        return outcomes;
    }

    /// The largest magnitude over qmax; each code is the nearest, and the row sum adds them up.
    static void expect_quantized(const Input& input, const Outcome& o) {
        const Case& c = input.c;
        const int qmax = (1 << (c.activation_bits - 1)) - 1;
        for (int r = 0; r < c.m; ++r) {
            float largest = 0;
            for (int i = 0; i < c.k; ++i)
                largest = std::max(largest, std::abs(input.x[at(r, i, c.k)]));
            const float scale = largest > 0 ? largest / static_cast<float>(qmax) : 1.0f;
            const std::size_t row = static_cast<std::size_t>(r);
            ASSERT_NEAR(o.scales[row] / scale, 1.0, 5e-7) << c.text() << ", row " << r;
            int sum = 0;
            for (int i = 0; i < c.k; ++i) {
                const int code = o.codes[at(r, i, c.k)];
                sum += code;
                ASSERT_LE(std::abs(code), qmax) << c.text();
                // Halfway between two codes a device's division may fall to either side.
                ASSERT_LE(std::abs(input.x[at(r, i, c.k)] / scale - static_cast<float>(code)),
                          0.5001f)
                    << c.text() << ", row " << r << ", column " << i;
            }
            ASSERT_EQ(o.row_sums[row], sum) << c.text() << ", row " << r;
        }
    }

    static void expect_products(const Input& input, const Outcome& o) {
        const Case& c = input.c;
        std::vector<double> expected, tolerance;
        for (int r = 0; r < c.m; ++r) {
            for (int n = 0; n < c.n; ++n) {
                std::int32_t sum = 0;
                for (int i = 0; i < c.k; ++i)
                    sum += o.codes[at(r, i, c.k)] * input.weight[at(n, i, c.k)];
                ASSERT_EQ(o.sums[at(r, n, c.n)], sum)
                    << c.text() << ", row " << r << ", column " << n;
                const std::size_t column = static_cast<std::size_t>(n);
                const double y = static_cast<double>(sum) * o.scales[static_cast<std::size_t>(r)] *
                                 input.weight_scale[column];
                expected.push_back(y + input.bias[column]);
                tolerance.push_back(1e-6 * (std::abs(y) + 1));
            }
        }
        expect_close(o.out, expected, tolerance, c.text());
    }
};

std::vector<Case> cases() {
    std::vector<Case> list;
    for (const int weight_bits : {3, 4, 6, 8}) {
        for (const int activation_bits : {6, 8}) {
            for (const auto& [m, n, k] : std::initializer_list<std::array<int, 3>>{{1, 1, 1},
                                                                                   {3, 13, 37},
                                                                                   {13, 3, 130},
                                                                                   {37, 65, 65},
                                                                                   {65, 130, 33},
                                                                                   {130, 37, 3},
                                                                                   {131, 270, 160},
                                                                                   {300, 260, 96},
                                                                                   {9, 500, 64},
                                                                                   {2, 5, 1024},
                                                                                   {3, 6, 1025},
                                                                                   {17, 9, 2100},
                                                                                   {1, 70, 3333}}) {
                list.push_back({m, n, k, weight_bits, activation_bits});
            }
            list.push_back({5, 7, 1024, weight_bits, activation_bits, true});
            list.push_back({18, 5, 4000, weight_bits, activation_bits, true});
        }
    }
    return list;
}

TEST_F(QuantizedTest, CodesAndAccumulatorsAreExactInEveryTier) {
    std::vector<Input> inputs;
    for (const Case& c : cases()) inputs.push_back(make(c));
    const auto portable = run(inputs, Arithmetic::portable);
    std::optional<std::vector<Outcome>> dot;
    if (has_dot()) dot = run(inputs, Arithmetic::dot);
    std::optional<std::vector<Outcome>> matrix;
    if (has_matrix_units()) matrix = run(inputs, Arithmetic::matrix);
    for (std::size_t i = 0; i < inputs.size(); ++i) {
        if (matrix) {
            EXPECT_EQ((*matrix)[i].sums, portable[i].sums) << inputs[i].c.text();
            EXPECT_EQ((*matrix)[i].out, portable[i].out) << inputs[i].c.text();
        }
        expect_quantized(inputs[i], portable[i]);
        expect_products(inputs[i], portable[i]);
        if (!dot) continue;
        EXPECT_EQ((*dot)[i].codes, portable[i].codes) << inputs[i].c.text();
        EXPECT_EQ((*dot)[i].sums, portable[i].sums) << inputs[i].c.text();
        EXPECT_EQ((*dot)[i].out, portable[i].out) << inputs[i].c.text();
    }
    if (!dot) fmt::print("no dot tier on {}: portable alone\n", device().info().name);
}

TEST_F(QuantizedTest, MeasuredTilesChangeNoBit) {
    std::vector<Input> inputs;
    for (const int m : {1, 31, 33, 100}) inputs.push_back(make({m, 70, 96, 4, 8}));
    for (const Arithmetic tier : {Arithmetic::portable, Arithmetic::dot}) {
        if (tier == Arithmetic::dot && !has_dot()) continue;
        const auto usual = run(inputs, tier);
        for (const auto& [lanes, rows] : {std::pair{16u, 32u}, {32u, 8u}, {64u, 16u}, {0u, 4u}}) {
            const auto tuned = run(inputs, tier, lanes, rows);
            for (std::size_t i = 0; i < inputs.size(); ++i) {
                EXPECT_EQ(tuned[i].sums, usual[i].sums) << inputs[i].c.text();
                EXPECT_EQ(tuned[i].out, usual[i].out) << inputs[i].c.text();
            }
        }
    }
}

TEST_F(QuantizedTest, ARowOfZerosGivesZerosAndScaleOne) {
    Input input = make({3, 5, 37, 4, 8});
    std::fill_n(input.x.begin() + 37, 37, 0.0f);
    const Outcome o = run({input}, Arithmetic::portable).front();
    EXPECT_EQ(o.scales[1], 1.0f);
    EXPECT_EQ(o.row_sums[1], 0);
    expect_quantized(input, o);
    expect_products(input, o);
}

TEST_F(QuantizedTest, ChannelScaleAndHadamardRotation) {
    struct Rotation {
        int m, k, block;
        bool multiplier;
    };
    for (const Rotation& t : {Rotation{3, 64, 64, true},
                              {13, 96, 32, true},
                              {5, 12, 4, false},
                              {37, 130, 2, true},
                              {4, 37, 0, true},
                              {65, 512, 512, false}}) {
        for (const int bits : {6, 8}) {
            const std::string what = fmt::format("{}x{} block {} bits {}", t.m, t.k, t.block, bits);
            Program program(limits());
            const Matrix x = add_kept_matrix(program, "x", t.m, t.k);
            const int words = format::packed_k(t.k) / 4;
            const Tensor codes = program.add("codes", static_cast<std::uint64_t>(t.m * words) * 4,
                                             Lifetime::persistent);
            const Tensor scales =
                program.add("scales", static_cast<std::uint64_t>(t.m) * 4, Lifetime::persistent);
            kernels::InputTransform transform;
            transform.rotation_block = t.block;
            if (t.multiplier) {
                transform.multiplier = program.add(
                    "multiplier", static_cast<std::uint64_t>(t.k) * 4, Lifetime::constant);
            }
            const auto rows = kernels::quantize_rows(program, "quantize", x, transform, bits);
            kernels::keep_bits(program, rows.words, codes, t.m * words);
            kernels::keep_bits(program, rows.scales, scales, t.m);
            Executor executor = executor_for(program);
            const auto values = random(t.m, t.k);
            auto multiplier = t.multiplier
                                  ? random(1, t.k)
                                  : std::vector<float>(static_cast<std::size_t>(t.k), 1.0f);
            write_matrix(executor, x, values);
            if (t.multiplier) write_tensor(executor, transform.multiplier, multiplier);
            executor.run(0);
            const auto packed = executor.read_values<std::uint32_t>(
                codes, static_cast<std::size_t>(t.m) * static_cast<std::size_t>(words));
            const auto unpacked = format::unpack_activation_codes(packed, t.m, t.k);
            const auto scale = executor.read_values<float>(scales, static_cast<std::size_t>(t.m));
            const int block = std::max(1, t.block);
            for (int r = 0; r < t.m; ++r) {
                const double s = scale[static_cast<std::size_t>(r)];
                double largest = 0;
                for (int j = 0; j < t.k; ++j) {
                    double y = 0;  // column j of the Sylvester Hadamard matrix of j's block
                    for (int i = 0; i < block; ++i) {
                        const int column = j / block * block + i;
                        const int parity =
                            std::popcount(static_cast<unsigned>(i & (j % block))) % 2;
                        const double term = static_cast<double>(values[at(r, column, t.k)]) *
                                            multiplier[static_cast<std::size_t>(column)];
                        y += parity ? -term : term;
                    }
                    y /= std::sqrt(static_cast<double>(block));
                    largest = std::max(largest, std::abs(y));
                    ASSERT_LE(std::abs(unpacked[at(r, j, t.k)] * s - y), 0.501 * s)
                        << what << ", row " << r << ", column " << j;
                }
                ASSERT_NEAR(s * ((1 << (bits - 1)) - 1) / largest, 1.0, 1e-5) << what;
            }
        }
    }
}

TEST_F(QuantizedTest, LearnedRotationAndClipping) {
    struct Rotation {
        int m, k, block;
        bool multiplier;
        float clip;  // 0: none
    };
    for (const Rotation& t : {Rotation{3, 64, 64, true, 0},
                              {13, 96, 32, true, 0.75f},
                              {37, 140, 20, false, 0.9f},
                              {5, 12, 4, true, 0},
                              {19, 24, 12, false, 1.0f},
                              {1, 512, 128, true, 0.7f}}) {
        for (const int bits : {6, 8}) {
            const std::string what = fmt::format("{}x{} block {} bits {}", t.m, t.k, t.block, bits);
            Program program(limits());
            const Matrix x = add_kept_matrix(program, "x", t.m, t.k);
            const int words = format::packed_k(t.k) / 4;
            const Tensor codes = program.add("codes", static_cast<std::uint64_t>(t.m * words) * 4,
                                             Lifetime::persistent);
            const Tensor scales =
                program.add("scales", static_cast<std::uint64_t>(t.m) * 4, Lifetime::persistent);
            kernels::InputTransform transform;
            transform.rotation_block = t.block;
            transform.rotation = program.add(
                "rotation", static_cast<std::uint64_t>(t.k * t.block) * 2, Lifetime::constant);
            if (t.multiplier) {
                transform.multiplier = program.add(
                    "multiplier", static_cast<std::uint64_t>(t.k) * 4, Lifetime::constant);
            }
            if (t.clip > 0) transform.clip = program.add("clip", 4, Lifetime::constant);
            const auto rows = kernels::quantize_rows(program, "quantize", x, transform, bits);
            kernels::keep_bits(program, rows.words, codes, t.m * words);
            kernels::keep_bits(program, rows.scales, scales, t.m);
            Executor executor = executor_for(program);
            const auto values = random(t.m, t.k);
            const auto multiplier = random(1, t.k);
            const auto rotation = through_half(random(t.k, t.block));  // any matrix will do
            std::vector<std::uint16_t> halves;
            for (const float value : rotation) halves.push_back(format::half_from_float(value));
            write_matrix(executor, x, values);
            executor.write_values(transform.rotation, std::span<const std::uint16_t>(halves));
            if (t.multiplier) write_tensor(executor, transform.multiplier, multiplier);
            if (t.clip > 0) write_tensor(executor, transform.clip, {t.clip});
            executor.run(0);
            const auto packed = executor.read_values<std::uint32_t>(
                codes, static_cast<std::size_t>(t.m) * static_cast<std::size_t>(words));
            const auto unpacked = format::unpack_activation_codes(packed, t.m, t.k);
            const auto scale = executor.read_values<float>(scales, static_cast<std::size_t>(t.m));
            const double qmax = (1 << (bits - 1)) - 1;
            for (int r = 0; r < t.m; ++r) {
                const double s = scale[static_cast<std::size_t>(r)];
                double largest = 0;
                for (int j = 0; j < t.k; ++j) {
                    double y = 0;
                    for (int i = 0; i < t.block; ++i) {
                        const int column = j / t.block * t.block + i;
                        y += static_cast<double>(values[at(r, column, t.k)]) *
                             (t.multiplier ? multiplier[static_cast<std::size_t>(column)] : 1.0f) *
                             rotation[at(column, j % t.block, t.block)];
                    }
                    largest = std::max(largest, std::abs(y));
                    const double clipped = std::clamp(y, -qmax * s, qmax * s);
                    ASSERT_LE(std::abs(unpacked[at(r, j, t.k)] * s - clipped), 0.501 * s)
                        << what << ", row " << r << ", column " << j;
                }
                ASSERT_NEAR(s * qmax / largest, t.clip > 0 ? t.clip : 1.0f, 1e-5) << what;
            }
        }
    }
}

TEST_F(QuantizedTest, EpilogueMatchesTheFloatKernels) {
    const int m = 13, n = 37, k = 65;
    Program program(limits());
    const Matrix x = add_kept_matrix(program, "x", m, k),
                 out = add_kept_matrix(program, "out", m, n);
    const Matrix plain = add_kept_matrix(program, "plain", m, n);
    const Matrix factor = add_kept_matrix(program, "factor", m, n);
    const auto weight = kernels::add_quantized_weight(program, "w", n, k, 4, true);
    const Tensor gate = program.add("gate", 48 * 4, Lifetime::persistent);
    kernels::Epilogue epilogue;
    epilogue.activation = kernels::Activation::silu;
    epilogue.factor = &factor;
    epilogue.residual = &out;
    epilogue.gate = gate;
    epilogue.gate_offset = 4;
    const auto rows = kernels::quantize_rows(program, "quantize", x, {}, 8);
    kernels::matmul(program, "plain", rows, weight, plain);
    kernels::matmul(program, "linear", rows, weight, out, epilogue);
    Executor executor = executor_for(program);
    const Input input = make({m, n, k, 4, 8});
    const auto factors = random(m, n), residual = random(m, n), gates = random(std::size_t{41});
    write_matrix(executor, x, input.x);
    write_matrix(executor, factor, factors);
    write_matrix(executor, out, residual);
    write_tensor(executor, gate, gates);
    const auto words = format::pack_weight_codes(input.weight, n, k, 4);
    executor.write_values(weight.words, std::span<const std::uint32_t>(words));
    write_tensor(executor, weight.scale, input.weight_scale);
    write_tensor(executor, weight.bias, input.bias);
    executor.run(0);
    std::vector<double> expected;
    const auto sums = read_matrix<float>(executor, plain);
    for (int r = 0; r < m; ++r) {
        for (int c = 0; c < n; ++c) {
            const double y = sums[at(r, c, n)];
            expected.push_back(residual[at(r, c, n)] + y / (1 + std::exp(-y)) *
                                                           factors[at(r, c, n)] *
                                                           gates[static_cast<std::size_t>(4 + c)]);
        }
    }
    expect_close(read_matrix<float>(executor, out), expected, 1e-5, "epilogue");
}

}  // namespace
}  // namespace quantsparse::tests
