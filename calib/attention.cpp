#include "calib/attention.hpp"

#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <limits>

namespace quantsparse::calib {
namespace {

// Scores of this many query rows at a time; bounds the memory of the probability map.
constexpr std::int64_t kAttentionRows = 512;

/// True where the mask drops a pair [heads, rows, keys]; `rows` positions [heads, rows].
at::Tensor dropped_pairs(const BandMask& mask, const at::Tensor& rows) {
    const auto columns = mask.positions.unsqueeze(1);
    const auto far = (rows.unsqueeze(2) - columns).abs().gt(mask.half_width);
    return far.logical_and(columns.ge(mask.sink));
}

/// Probabilities [heads, count, keys] of the query rows from `start` on; q, k [heads, tokens, d].
at::Tensor probabilities(const at::Tensor& q, const at::Tensor& k, std::int64_t start,
                         std::int64_t count, const BandMask& mask) {
    const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(2)));
    auto scores = at::matmul(q.narrow(1, start, count) * scale, k.transpose(1, 2));
    if (!mask.dense()) {
        scores.masked_fill_(dropped_pairs(mask, mask.positions.narrow(1, start, count)),
                            -std::numeric_limits<float>::infinity());
    }
    return at::softmax(scores, -1);
}

at::Tensor forward_tiles(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                         const BandMask& mask) {
    std::vector<at::Tensor> parts;
    for (std::int64_t start = 0; start < q.size(1); start += kAttentionRows) {
        const auto count = std::min(kAttentionRows, q.size(1) - start);
        parts.push_back(at::matmul(probabilities(q, k, start, count, mask), v));
    }
    return at::cat(parts, 1);
}

/// On [heads, tokens, d]. Keeps q, k, v and the output only.
class TiledAttention : public torch::autograd::Function<TiledAttention> {
  public:
    static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& q,
                              const at::Tensor& k, const at::Tensor& v, const at::Tensor& positions,
                              std::int64_t half_width, std::int64_t sink) {
        const auto out = forward_tiles(q, k, v, {positions, half_width, sink});
        context->save_for_backward({q, k, v, positions, out});
        context->saved_data["half_width"] = half_width;
        context->saved_data["sink"] = sink;
        return out;
    }

    /// With P = softmax(S) and G = dL/dP: dS = P (G - rowsum(G P)), and rowsum(G P) is the row's
    /// product of output and its gradient.
    static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                   torch::autograd::variable_list gradients) {
        const auto saved = context->get_saved_variables();
        const auto &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[4];
        const BandMask mask{saved[3], context->saved_data["half_width"].toInt(),
                            context->saved_data["sink"].toInt()};
        const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(2)));
        const auto& gradient = gradients[0];
        const auto products = (gradient * out).sum(-1, true);
        std::vector<at::Tensor> dq;
        auto dk = at::zeros_like(k);
        auto dv = at::zeros_like(v);
        for (std::int64_t start = 0; start < q.size(1); start += kAttentionRows) {
            const auto count = std::min(kAttentionRows, q.size(1) - start);
            const auto p = probabilities(q, k, start, count, mask);
            const auto g = gradient.narrow(1, start, count);
            dv.add_(at::matmul(p.transpose(1, 2), g));
            auto ds = at::matmul(g, v.transpose(1, 2));
            ds.sub_(products.narrow(1, start, count)).mul_(p).mul_(scale);
            dq.push_back(at::matmul(ds, k));
            dk.add_(at::matmul(ds.transpose(1, 2), q.narrow(1, start, count)));
        }
        return {at::cat(dq, 1), dk, dv, at::Tensor(), at::Tensor(), at::Tensor()};
    }
};

}  // namespace

at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const BandMask& mask) {
    const auto heads = [](const at::Tensor& x) { return x.transpose(0, 1).contiguous(); };
    const bool learns =
        at::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad());
    // Autograd takes no undefined tensors.
    const auto positions = mask.dense() ? at::empty({0}, at::kLong) : mask.positions;
    const auto out = learns ? TiledAttention::apply(heads(q), heads(k), heads(v), positions,
                                                    mask.half_width, mask.sink)
                            : forward_tiles(heads(q), heads(k), heads(v), mask);
    return out.transpose(0, 1).reshape({q.size(0), -1});
}

at::Tensor attention_rows(const at::Tensor& q, const at::Tensor& k, const BandMask& mask,
                          const at::Tensor& rows) {
    const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(2)));
    auto scores = at::matmul(q.transpose(0, 1) * scale, k.permute({1, 2, 0}));
    if (!mask.dense()) {
        scores = scores.masked_fill(dropped_pairs(mask, mask.positions.index_select(1, rows)),
                                    -std::numeric_limits<float>::infinity());
    }
    return at::softmax(scores, -1);
}

}  // namespace quantsparse::calib
