#include "models/dit_block.hpp"

#include <algorithm>

namespace quantsparse::models {
namespace {

using kernels::add_matrix;
using kernels::Epilogue;

/// Tokens whose feed-forward hidden layer exists at a time.
constexpr int kFeedForwardRows = 4096;

/// "ffn.0" of "blocks.3.ffn.0": operations of all blocks have one name, so that profiles add up.
std::string operation_name(const Linear& linear) {
    const std::size_t number = linear.name.find_first_of("0123456789");
    const std::size_t dot = linear.name.find('.', number);
    return dot == std::string::npos ? linear.name : linear.name.substr(dot + 1);
}

}  // namespace

FiniteWatch::FiniteWatch(Program& program, std::vector<std::string> sites)
    : flags_(program.add("watch", sites.size() * 4, program::Lifetime::persistent)),
      sites_(std::move(sites)) {}

kernels::Norm FiniteWatch::norm(int site, float eps) const {
    kernels::Norm norm;
    norm.eps = eps;
    norm.watch = flags_;
    norm.site = site;
    return norm;
}

std::string FiniteWatch::first(const program::Executor& executor) const {
    const auto flags = executor.read_values<std::uint32_t>(flags_, sites_.size());
    const auto found = std::find(flags.begin(), flags.end(), 1u);
    return found == flags.end() ? "" : sites_[static_cast<std::size_t>(found - flags.begin())];
}

Matrix modulated_norm(Program& program, const std::string& name, const Matrix& x,
                      kernels::Norm norm, const Modulation& modulation) {
    const Matrix out = add_matrix(program, name, x.rows, x.columns);
    norm.modulation = modulation.tensor;
    norm.shift_offset = modulation.shift;
    norm.scale_offset = modulation.scale;
    normalize_rows(program, name, x, out, norm);
    return out;
}

void add_output(Program& program, const std::string& name, const Linear& linear,
                const Matrix& input, const Matrix& x, const Modulation& modulation) {
    Epilogue add;
    add.residual = &x;
    if (modulation.gate >= 0) {
        add.gate = modulation.tensor;
        add.gate_offset = modulation.gate;
    }
    apply(program, name, linear, prepare_input(program, linear, input), x, add);
}

void feed_forward(Program& program, const Linear& up, const Linear& down, const Matrix& x,
                  const kernels::Norm& norm, const Modulation& modulation) {
    for (int first = 0; first < x.rows; first += kFeedForwardRows) {
        const int count = std::min(kFeedForwardRows, x.rows - first);
        const Matrix chunk = x.slice(first, count);
        const Matrix u = modulated_norm(program, "norm2", chunk, norm, modulation);
        const Matrix hidden = add_matrix(program, "ffn_hidden", count, up.n);
        Epilogue gelu;
        gelu.activation = kernels::Activation::gelu_tanh;
        apply(program, operation_name(up), up, prepare_input(program, up, u), hidden, gelu);
        add_output(program, operation_name(down), down, hidden, chunk, modulation);
    }
}

}  // namespace quantsparse::models
