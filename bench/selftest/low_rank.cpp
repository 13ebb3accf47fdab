// Rank-r corrections of a weight: the truncated SVD of a difference, and a linear that carries it.
#include "attention/low_rank.hpp"

#include <algorithm>
#include <cmath>

#include "format/bit_packing.hpp"
#include "pipeline/stage.hpp"
#include "selftest/case.hpp"
#include "selftest/matrices.hpp"

namespace quantsparse::selftest {
namespace {

using kernels::Matrix;
using program::Lifetime;

/// A reference without a gap behind its rank wants the exact truncation: subspace iteration gets
/// there, in more steps than a run would spend.
constexpr int kIterations = 40;

std::size_t at(int row, int column, int columns) {
    return static_cast<std::size_t>(row) * static_cast<std::size_t>(columns) +
           static_cast<std::size_t>(column);
}

std::vector<float> transposed(const std::vector<float>& values, int rows, int columns) {
    std::vector<float> out(values.size());
    for (int r = 0; r < rows; ++r) {
        for (int c = 0; c < columns; ++c) out[at(c, r, rows)] = values[at(r, c, columns)];
    }
    return out;
}

kernels::FloatWeight as_weight(const Matrix& m) {  // [k, n] as matmul() reads it
    kernels::FloatWeight weight;
    weight.n = m.columns;
    weight.k = m.rows;
    weight.panels.push_back({m.tensor, 0, m.columns});
    return weight;
}

struct Outputs {
    std::vector<float> u, v, y;
};

/// delta [n, k] ~ U V^T, then y = x base^T + (x V) U^T, x [m, k].
Outputs run_on_device(const Settings& settings, const std::vector<float>& delta,
                      const std::vector<float>& base, const std::vector<float>& x, int m, int n,
                      int k, int rank) {
    program::Program program(pipeline::device_limits(*settings.device));
    const auto matrix = [&](const char* name, int rows, int columns) {
        return kernels::add_matrix(program, name, rows, columns, Lifetime::persistent);
    };
    const Matrix in = matrix("delta", n, k), u = matrix("u", n, rank), v = matrix("v", k, rank);
    const Matrix rows = matrix("x", m, k), weight = matrix("base", k, n),
                 up = matrix("up", rank, n);
    const Matrix plain = matrix("plain", m, n), narrow = matrix("narrow", m, rank);
    const Matrix y = matrix("y", m, n);
    attention::LowRankOptions options;
    options.iterations = kIterations;
    options.oversampling = attention::kMaxColumns - rank;
    program.begin_phase("project");
    project_low_rank(program, "project", in, {u, v, 0, rank}, options);
    const std::uint32_t linear = program.begin_phase("linear");
    kernels::matmul(program, "base", rows, as_weight(weight), plain);
    kernels::matmul(program, "down", rows, as_weight(v), narrow);
    kernels::Epilogue add;
    add.residual = &plain;
    kernels::matmul(program, "up", narrow, as_weight(up), y, add);

    program::Executor executor(*settings.device, program, false, settings.force_staging);
    executor.clear(v.tensor);
    write_matrix(executor, in, delta);
    write_matrix(executor, rows, x);
    write_matrix(executor, weight, transposed(base, n, k));
    executor.run(0);
    Outputs out{read_matrix<float>(executor, u), read_matrix<float>(executor, v), {}};
    write_matrix(executor, up, transposed(out.u, n, rank));
    executor.run(linear);
    out.y = read_matrix<float>(executor, y);
    return out;
}

}  // namespace

std::vector<Result> run_quant_lowrank(const Case& c, const Settings& settings) {
    const auto& config = c.json.at("config");
    const int m = config.at("tokens"), k = config.at("in_features"), n = config.at("out_features");
    const auto& fp32 = c.json.at("tolerance").at("lowrank, weight, y fp32");
    const Tolerance tolerance{fp32.at("rel_l2"), fp32.at("max_abs")};
    const double of_first = c.json.at("tolerance").at("singular_values").at("rel_to_first");
    const auto a = c.floats("in.A"), b = c.floats("in.B"), x = c.floats("in.x");

    const auto quantised = format::quantize_weight(a, n, k, config.at("bits").get<int>());
    std::vector<float> dequantised(a.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
        dequantised[i] = static_cast<float>(quantised.codes[i]) *
                         quantised.scale[i / static_cast<std::size_t>(k)];
    }
    const auto codes = c.integers("quant.codes");
    const bool same_codes =
        std::equal(codes.begin(), codes.end(), quantised.codes.begin(), quantised.codes.end());

    std::vector<Result> results;
    for (const auto& run : c.json.at("runs")) {
        const std::string id = run.at("id"), target = run.at("target");
        RunReport report(c.name + "/" + id, tolerance);
        report.require(same_codes, "weight codes differ");
        const auto& base = target == "diff" ? a : dequantised;
        const auto& wanted = target == "residual" ? a : b;
        std::vector<float> delta(a.size());
        for (std::size_t i = 0; i < delta.size(); ++i) delta[i] = wanted[i] - base[i];
        report.intermediate("delta", delta, c.floats(target + ".delta"));

        const int rank = attention::usable_rank(run.at("rank"), n, k);
        const Outputs out = run_on_device(settings, delta, base, x, m, n, k, rank);
        std::vector<float> low_rank, weight;
        for (int row = 0; row < n; ++row) {
            for (int column = 0; column < k; ++column) {
                double sum = 0;
                for (int r = 0; r < rank; ++r) {
                    sum += static_cast<double>(out.u[at(row, r, rank)]) *
                           static_cast<double>(out.v[at(column, r, rank)]);
                }
                low_rank.push_back(static_cast<float>(sum));
                weight.push_back(static_cast<float>(base[at(row, column, k)] + sum));
            }
        }
        // `weight` in the cases is what the correction is applied to plus the correction.
        report.output("lowrank", low_rank, c.floats(id + ".lowrank"));
        report.output("weight", weight, c.floats(id + ".weight"));
        report.output("y", out.y, c.floats(id + ".y"));
        const auto singular_values = c.floats(target + ".singular_values");
        bool close = true;
        for (int r = 0; r < rank; ++r) {  // U carries them: V's columns have length 1
            double square = 0;
            for (int row = 0; row < n; ++row) {
                square += std::pow(static_cast<double>(out.u[at(row, r, rank)]), 2);
            }
            close &= std::abs(std::sqrt(square) - singular_values[static_cast<std::size_t>(r)]) <=
                     of_first * singular_values.front();
        }
        report.require(close, "singular values differ");
        results.push_back(report.result());
    }
    return results;
}

}  // namespace quantsparse::selftest
