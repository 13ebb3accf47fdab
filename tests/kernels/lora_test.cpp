// What a LoRA adds to products of codes, against plain loops in double precision.
#include <fmt/format.h>
#include <cmath>

#include "format/bit_packing.hpp"
#include "support.hpp"

namespace quantsparse::tests {
namespace {

using kernels::Activation;
using kernels::Epilogue;
using kernels::LoraProduct;

struct LoraCase {
    int m, n, k;
    int weight_bits, activation_bits;
    int rank, first, columns;  ///< the linear's own of all columns of the rows
    bool gated = false;        ///< gate and residual, in place
    bool gelu = false;

    std::string text() const {
        return fmt::format("{}x{}x{} W{}A{} rank {} at {} of {}{}{}", m, n, k, weight_bits,
                           activation_bits, rank, first, columns, gated ? " gated" : "",
                           gelu ? " gelu" : "");
    }
};

/// One case in a program.
struct LoraRun {
    LoraCase c;
    Matrix x, plain, out, rows;
    Tensor gate;
    kernels::QuantizedWeight weight;
    kernels::FloatWeight up;
    std::vector<float> bias, residual, gate_values, row_values, up_values;
};

class LoraTest : public DeviceTest {
  protected:
    void add(Program& program, const LoraCase& c) {
        LoraRun run;
        run.c = c;
        run.x = add_kept_matrix(program, "x", c.m, c.k);
        run.plain = add_kept_matrix(program, "plain", c.m, c.n);
        run.out = add_kept_matrix(program, "out", c.m, c.n);
        run.rows = add_kept_matrix(program, "rows", c.m, c.columns);
        run.gate =
            program.add("gate", static_cast<std::uint64_t>(c.n + 3) * 4, Lifetime::persistent);
        run.weight = kernels::add_quantized_weight(program, "w", c.n, c.k, c.weight_bits, true);
        const bool spread = kernels::spread_up(program.limits());
        run.up = kernels::add_float_weight(program, "up", c.n, spread ? c.columns : c.rank, false,
                                           false);
        const auto rows = kernels::quantize_rows(program, "quantize", run.x, {}, c.activation_bits);
        kernels::matmul(program, "plain", rows, run.weight, run.plain);
        Epilogue epilogue;
        if (c.gelu) epilogue.activation = Activation::gelu_tanh;
        if (c.gated) {
            epilogue.residual = &run.out;
            epilogue.gate = run.gate;
        }
        LoraProduct lora;
        lora.rows = run.rows;
        lora.first = c.first;
        lora.rank = c.rank;
        lora.up = run.up;
        kernels::matmul(program, "product", rows, run.weight, lora, run.out, epilogue);
        run.bias = random(1, c.n);
        run.residual = random(c.m, c.n);
        run.gate_values = random(1, c.n);
        run.row_values = random(c.m, c.columns);
        run.up_values = random(c.n, c.rank);
        runs_.push_back(std::move(run));
    }

    void write(Executor& executor, const LoraRun& run) {
        const LoraCase& c = run.c;
        std::vector<std::int8_t> codes(static_cast<std::size_t>(c.n) *
                                       static_cast<std::size_t>(c.k));
        const int highest = (1 << (c.weight_bits - 1)) - 1;
        for (auto& code : codes) code = static_cast<std::int8_t>(random_int(-highest - 1, highest));
        const auto words = format::pack_weight_codes(codes, c.n, c.k, c.weight_bits);
        executor.write_values(run.weight.words, std::span<const std::uint32_t>(words));
        write_tensor(executor, run.weight.scale,
                     std::vector<float>(static_cast<std::size_t>(c.n), 0.01f));
        write_tensor(executor, run.weight.bias, run.bias);
        write_tensor(executor, run.gate, run.gate_values);
        write_matrix(executor, run.x, random(c.m, c.k));
        write_matrix(executor, run.out, run.residual);
        write_matrix(executor, run.rows, run.row_values);
        std::vector<float> up = run.up_values;
        if (run.up.k != c.rank) {  // spread: zeros beside the linear's own
            up.assign(static_cast<std::size_t>(c.n) * static_cast<std::size_t>(c.columns), 0.0f);
            for (int n = 0; n < c.n; ++n) {
                for (int r = 0; r < c.rank; ++r) {
                    up[at(n, c.first + r, c.columns)] = run.up_values[at(n, r, c.rank)];
                }
            }
        }
        write_weight(executor, run.up, up, {});
    }

    void expect_sum(const Executor& executor, const LoraRun& run) {
        const LoraCase& c = run.c;
        const auto plain = read_matrix<float>(executor, run.plain);
        std::vector<double> expected, tolerance;
        for (int m = 0; m < c.m; ++m) {
            for (int n = 0; n < c.n; ++n) {
                double sum = 0, size = 0;
                for (int r = 0; r < c.rank; ++r) {
                    const double product =
                        static_cast<double>(run.row_values[at(m, c.first + r, c.columns)]) *
                        static_cast<double>(run.up_values[at(n, r, c.rank)]);
                    sum += product;
                    size += std::abs(product);
                }
                double y = static_cast<double>(plain[at(m, n, c.n)]) + sum;  // has the bias
                size += std::abs(y) + 1;
                if (c.gelu) {
                    y = 0.5 * y * (1 + std::tanh(std::sqrt(2 / M_PI) * (y + 0.044715 * y * y * y)));
                }
                if (c.gated) {
                    y = static_cast<double>(run.residual[at(m, n, c.n)]) +
                        y * static_cast<double>(run.gate_values[static_cast<std::size_t>(n)]);
                }
                expected.push_back(y);
                tolerance.push_back(2e-6 * size);
            }
        }
        expect_close(read_matrix<float>(executor, run.out), expected, tolerance, c.text());
        EXPECT_TRUE(padding_is_zero(executor, run.out)) << c.text();
    }

    void run_and_compare(const Program& program, Arithmetic of_device) {
        Executor executor(device(of_device).internal(), program);
        for (const LoraRun& run : runs_) write(executor, run);
        executor.run(0);
        for (const LoraRun& run : runs_) expect_sum(executor, run);
        runs_.clear();
    }

    std::vector<LoraRun> runs_;
};

/// Few: each takes kernels of its own, which CPU drivers compile for a while.
std::vector<LoraCase> lora_cases(int most_rows) {
    constexpr std::array<std::array<int, 3>, 4> kShapes = {
        {{1, 1, 1}, {3, 13, 37}, {37, 65, 65}, {131, 270, 160}}};
    constexpr std::array<std::array<int, 3>, 4> kRanks = {
        {{12, 192, 204}, {4, 0, 4}, {32, 8, 56}, {128, 0, 128}}};
    std::vector<LoraCase> cases;
    int next = 0;
    for (const auto& [weight_bits, activation_bits] :
         {std::pair{3, 8}, std::pair{4, 8}, std::pair{6, 6}, std::pair{6, 8}, std::pair{8, 8}}) {
        for (const auto& [m, n, k] : kShapes) {
            const auto& [rank, first, columns] = kRanks[static_cast<std::size_t>(next % 4)];
            cases.push_back({std::min(m, most_rows), n, k, weight_bits, activation_bits, rank,
                             first, columns, next % 3 == 1, next % 3 == 2});
            ++next;
        }
    }
    return cases;
}

TEST_F(LoraTest, LowRankProductsEnterTheEpilogueInEveryTier) {
    for (const Arithmetic tier : {Arithmetic::portable, Arithmetic::dot}) {
        if (tier == Arithmetic::dot && !has_dot()) continue;
        Program program(limits(tier));
        for (const LoraCase& c : lora_cases(1000)) add(program, c);
        run_and_compare(program, tier);
    }
    if (!has_matrix_units()) return;
    Program program(limits(Arithmetic::matrix));
    for (const LoraCase& c : lora_cases(1000)) add(program, c);
    run_and_compare(program, Arithmetic::matrix);
}

TEST_F(LoraTest, ProductsOfFloatsAddTheSameWhereKernelsDoNot) {
    // As on matrix units, with so few rows that other devices can run it.
    program::Limits others = limits();
    others.arithmetic = Arithmetic::matrix;
    others.has_dot = false;
    Program program(others);
    for (const LoraCase& c : lora_cases(15)) add(program, c);
    run_and_compare(program, usual());
}

TEST_F(LoraTest, RankZeroIsThePlainProductToTheBit) {
    Program program(limits());
    const Matrix x = add_kept_matrix(program, "x", 20, 70);
    const Matrix plain = add_kept_matrix(program, "plain", 20, 30);
    const Matrix out = add_kept_matrix(program, "out", 20, 30);
    const auto weight = kernels::add_quantized_weight(program, "w", 30, 70, 4, true);
    const auto rows = kernels::quantize_rows(program, "quantize", x, {}, 8);
    kernels::matmul(program, "product", rows, weight, plain);
    kernels::matmul(program, "product", rows, weight, LoraProduct{}, out, {});
    ASSERT_EQ(program.operations().size(), 3u);
    EXPECT_EQ(program.operations()[1].shader, program.operations()[2].shader);
    Executor executor = executor_for(program);
    write_matrix(executor, x, random(20, 70));
    std::vector<std::uint32_t> words(format::packed_word_count(30, 70, 4));
    for (auto& word : words) word = static_cast<std::uint32_t>(random_int(0, 1 << 30));
    executor.write_values(weight.words, std::span<const std::uint32_t>(words));
    write_tensor(executor, weight.scale, random(1, 30));
    write_tensor(executor, weight.bias, random(1, 30));
    executor.run(0);
    EXPECT_EQ(read_matrix<float>(executor, out), read_matrix<float>(executor, plain));
}

}  // namespace
}  // namespace quantsparse::tests
