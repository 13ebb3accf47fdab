#include "calib/low_rank_branch.hpp"

#include <cmath>

#include "calib/sample_selection.hpp"
#include "calib/tensors.hpp"

namespace quantsparse::calib {

std::vector<double> row_kurtosis(const at::Tensor& weight) {
    const auto centred = weight.to(at::kDouble) - weight.to(at::kDouble).mean(1, true);
    const auto variance = centred.square().mean(1);
    const auto fourth = centred.square().square().mean(1);
    const auto kurtosis = at::where(variance > 0, fourth / variance.square().clamp_min(1e-300),
                                    at::zeros_like(variance))
                              .contiguous();
    const auto* values = kurtosis.data_ptr<double>();
    return {values, values + kurtosis.numel()};
}

LowRankBranch sign_branch(const at::Tensor& error, const std::vector<std::int64_t>& rows) {
    const auto rank = std::ssize(rows);
    const auto chosen = error.index_select(0, at::tensor(rows, at::kLong));
    LowRankBranch branch{chosen.sign(), at::zeros({error.size(0), rank}, error.options())};
    const auto magnitudes = chosen.abs().mean(1);
    for (std::int64_t i = 0; i < rank; ++i) {
        branch.up[rows[static_cast<std::size_t>(i)]][i] = magnitudes[i];
    }
    return branch;
}

LowRankBranch svd_branch(const at::Tensor& error, std::int64_t rank) {
    const auto [u, s, vh] = at::linalg_svd(error, /*full_matrices=*/false);
    const auto kept = std::min(rank, s.size(0));
    // Half of each singular value on either side: both are stored in halves.
    const auto root = s.narrow(0, 0, kept).sqrt();
    return {vh.narrow(0, 0, kept) * root.unsqueeze(1), u.narrow(1, 0, kept) * root};
}

LowRankBranch residual_branch(const at::Tensor& weight, const at::Tensor& quantized,
                              double salient_share, std::int64_t rank) {
    const auto salient =
        static_cast<std::size_t>(salient_share * static_cast<double>(weight.size(0)));
    std::vector<std::int64_t> rows;
    for (const auto row : highest(row_kurtosis(weight), salient)) {
        rows.push_back(static_cast<std::int64_t>(row));
    }
    const auto error = weight - quantized;
    const auto signs = sign_branch(error, rows);
    const auto rest = svd_branch(error - at::mm(signs.up, signs.down), rank);
    return {at::cat({signs.down, rest.down}, 0), at::cat({signs.up, rest.up}, 1)};
}

}  // namespace quantsparse::calib
