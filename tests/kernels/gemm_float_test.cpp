// Floating-point matrix products against a plain loop in double precision.
#include <fmt/format.h>
#include <bit>
#include <cmath>

#include "support.hpp"

namespace quantsparse::tests {
namespace {

using kernels::Activation;
using kernels::Epilogue;

struct Shape {
    int m, n, k;
};

/// One product of a test's program, with everything its epilogue reads.
struct Product {
    Shape shape;
    kernels::FloatWeight weight;
    Matrix a, out, factor, residual;
    Tensor gate;
    Activation activation = Activation::none;
    bool has_bias = false, has_factor = false, has_residual = false, has_gate = false;
    bool in_place = false;  ///< the residual is the output itself
    std::vector<float> a_values, weight_values, bias, factor_values, residual_values, gate_values;
    std::string what;
};

constexpr int kGateOffset = 8;  // floats: a multiple of 4, as modulation vectors have

double activate(double x, Activation activation) {
    switch (activation) {
        case Activation::gelu_tanh:
            return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
        case Activation::silu:
            return x / (1 + std::exp(-x));
        default:
            return x;
    }
}

class MatmulTest : public DeviceTest {
  protected:
    void add(Program& program, Product p, bool half) {
        const auto [m, n, k] = p.shape;
        p.what =
            fmt::format("{}x{}x{} {} activation {} bias {} factor {} residual {}{} gate {}", m, n,
                        k, half ? "half" : "fp32", static_cast<int>(p.activation), p.has_bias,
                        p.has_factor, p.has_residual, p.in_place ? " in place" : "", p.has_gate);
        p.a = add_kept_matrix(program, "a", m, k);
        p.out = add_kept_matrix(program, "out", m, n);
        p.weight = kernels::add_float_weight(program, "w", n, k, half, p.has_bias);
        Epilogue epilogue;
        epilogue.activation = p.activation;
        if (p.has_factor) p.factor = add_kept_matrix(program, "factor", m, n);
        if (p.has_residual) p.residual = p.in_place ? p.out : add_kept_matrix(program, "r", m, n);
        if (p.has_factor) epilogue.factor = &p.factor;
        if (p.has_residual) epilogue.residual = &p.residual;
        if (p.has_gate) {
            p.gate = program.add("gate", static_cast<std::uint64_t>(kGateOffset + n + 3) * 4,
                                 Lifetime::persistent);
            epilogue.gate = p.gate;
            epilogue.gate_offset = kGateOffset;
        }
        kernels::matmul(program, "product", p.a, p.weight, p.out, epilogue);
        p.a_values = random(m, k);
        p.weight_values = random(n, k);
        if (half) p.weight_values = through_half(p.weight_values);
        // Matrix units take the other operand as halves, too, where rows are enough for them.
        if (half && usual() == Arithmetic::matrix) p.a_values = through_half(p.a_values);
        p.bias = random(1, n);
        p.factor_values = random(m, n);
        p.residual_values = random(m, n);
        p.gate_values = random(1, kGateOffset + n);
        products_.push_back(std::move(p));
    }

    void run_and_compare(const Program& program) {
        Executor executor = executor_for(program);
        for (const Product& p : products_) {
            write_matrix(executor, p.a, p.a_values);
            write_weight(executor, p.weight, p.weight_values, p.bias);
            if (p.has_factor) write_matrix(executor, p.factor, p.factor_values);
            if (p.has_residual) write_matrix(executor, p.residual, p.residual_values);
            if (p.has_gate) write_tensor(executor, p.gate, p.gate_values);
        }
        executor.run(0);
        for (const Product& p : products_) compare(executor, p);
    }

    static void compare(const Executor& executor, const Product& p) {
        const auto [m, n, k] = p.shape;
        std::vector<double> expected, tolerance;
        for (int r = 0; r < m; ++r) {
            for (int c = 0; c < n; ++c) {
                double sum = 0, size = 0;
                for (int i = 0; i < k; ++i) {
                    const double product = static_cast<double>(p.a_values[at(r, i, k)]) *
                                           static_cast<double>(p.weight_values[at(c, i, k)]);
                    sum += product;
                    size += std::abs(product);
                }
                if (p.has_bias) sum += p.bias[static_cast<std::size_t>(c)];
                double y = activate(sum, p.activation);
                if (p.has_factor) y *= p.factor_values[at(r, c, n)];
                if (p.has_gate) y *= p.gate_values[static_cast<std::size_t>(kGateOffset + c)];
                if (p.has_residual) y += p.residual_values[at(r, c, n)];
                expected.push_back(y);
                // Rounding of a sum grows with the terms' sizes; a lost term would be 1/k of it.
                tolerance.push_back(2e-6 * (size + 2));
            }
        }
        expect_close(read_matrix<float>(executor, p.out), expected, tolerance, p.what);
    }

    std::vector<Product> products_;
};

TEST_F(MatmulTest, RaggedSizes) {
    Program program(limits());
    for (const bool half : {false, true}) {
        for (const Shape shape : {Shape{1, 1, 1},
                                  {1, 130, 37},
                                  {3, 3, 3},
                                  {13, 37, 65},
                                  {37, 13, 130},
                                  {65, 65, 13},
                                  {130, 1, 3},
                                  {4, 4, 4},
                                  {5, 130, 1},
                                  {64, 128, 64}}) {
            Product p{shape};
            p.has_bias = shape.m != 3;
            add(program, p, half);
        }
        for (int i = 0; i < 6; ++i) {
            add(program, Product{{random_int(1, 140), random_int(1, 140), random_int(1, 300)}},
                half);
        }
    }
    run_and_compare(program);
}

TEST_F(MatmulTest, Epilogues) {
    // Each combination is a pipeline to compile, so not all of them: every part with and without
    // every other. Bits of the mask: factor, residual, gate.
    struct Combination {
        Activation activation;
        unsigned mask;
    };
    Program program(limits());
    for (const auto& [activation, mask] : {Combination{Activation::none, 0},
                                           {Activation::none, 2},
                                           {Activation::none, 6},
                                           {Activation::gelu_tanh, 0},
                                           {Activation::gelu_tanh, 5},
                                           {Activation::gelu_tanh, 7},
                                           {Activation::silu, 1},
                                           {Activation::silu, 3},
                                           {Activation::silu, 4}}) {
        Product p{{13, 37, 65}};
        p.activation = activation;
        p.has_factor = mask & 1;
        p.has_residual = mask & 2;
        p.has_gate = mask & 4;
        p.has_bias = std::popcount(mask) % 2 == 0;
        p.in_place = activation == Activation::silu;
        add(program, p, false);
        if (mask == 7) add(program, p, true);
    }
    run_and_compare(program);
}

TEST_F(MatmulTest, GeluStaysFiniteFarFromZero) {
    Program program(limits());
    const Matrix a = add_kept_matrix(program, "a", 1, 4), out = add_kept_matrix(program, "o", 1, 4);
    const auto weight = kernels::add_float_weight(program, "w", 4, 4, false, false);
    Epilogue epilogue;
    epilogue.activation = Activation::gelu_tanh;
    kernels::matmul(program, "product", a, weight, out, epilogue);
    Executor executor = executor_for(program);
    write_matrix(executor, a, std::vector<float>{1, 1, 1, 1});
    const std::vector<float> diagonal = {1e4f, 0, 0, 0, 0, -1e4f, 0, 0, 0, 0, 30, 0, 0, 0, 0, -30};
    write_weight(executor, weight, diagonal, {});
    executor.run(0);
    expect_close(read_matrix<float>(executor, out), std::vector<double>{1e4, 0, 30, 0}, 1e-4,
                 "gelu");
}

}  // namespace
}  // namespace quantsparse::tests
