#include "models/wan_dit.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <cmath>

#include "kernels/attention.hpp"
#include "kernels/copy.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::models {
namespace {

using kernels::Activation;
using kernels::add_head_matrix;
using kernels::add_matrix;
using kernels::Epilogue;
using kernels::HeadMatrix;
using kernels::Norm;
using kernels::round_up;
using program::Lifetime;
using program::StreamGroup;

/// Tokens whose feed-forward hidden layer exists at a time: bounds the largest activation.
constexpr int kFfnRows = 4096;

/// Places in a block whose values are watched: after self-attention, cross-attention, feed-forward.
constexpr int kSitesPerBlock = 3;

/// Modulation vectors of a block, in upstream's order (wan fact 4).
enum ModulationVector { kShift1, kScale1, kGate1, kShift2, kScale2, kGate2 };

/// Pairs of a head turned by time; rows and columns get head_dim / 6 each (wan fact 7).
int row_pairs(int head_dim) {
    return head_dim / 6;
}
int time_pairs(int head_dim) {
    return head_dim / 2 - 2 * (head_dim / 6);
}

/// (cos, sin) [positions, head_dim / 2]; each axis has its own ladder of frequencies.
std::vector<float> make_rope_table(int head_dim, int positions) {
    const int rows = row_pairs(head_dim), time = time_pairs(head_dim);
    std::vector<float> table;
    table.reserve(static_cast<std::size_t>(positions) * static_cast<std::size_t>(head_dim));
    for (int position = 0; position < positions; ++position) {
        for (int pair = 0; pair < head_dim / 2; ++pair) {
            const bool is_time = pair < time;
            const int index = is_time ? pair : (pair - time) % rows;
            const double axis_dim = 2.0 * (is_time ? time : rows);
            const double angle = position * std::pow(10000.0, -2.0 * index / axis_dim);
            table.push_back(static_cast<float>(std::cos(angle)));
            table.push_back(static_cast<float>(std::sin(angle)));
        }
    }
    return table;
}

}  // namespace

std::vector<float> time_sinusoid(const format::WanDitConfig& config, double timestep) {
    const int half = config.freq_dim / 2;
    std::vector<float> values(static_cast<std::size_t>(round_up(config.freq_dim, 4)), 0.0f);
    for (int j = 0; j < half; ++j) {
        const double angle = timestep * std::pow(10000.0, -static_cast<double>(j) / half);
        values[static_cast<std::size_t>(j)] = static_cast<float>(std::cos(angle));
        values[static_cast<std::size_t>(half + j)] = static_cast<float>(std::sin(angle));
    }
    return values;
}

WanDit::WanDit(Program& program, const WanDitOptions& options)
    : options_(options), program_(program), weights_(program, options.half) {
    const auto& config = options_.config;
    const int patch_y = config.patch_size[1], patch_x = config.patch_size[2];
    if (config.patch_size[0] != 1 || config.dim % config.num_heads != 0 ||
        config.head_dim() % 2 != 0) {
        throw Error(
            ErrorCode::unsupported,
            fmt::format("a Wan transformer with patch {}x{}x{}, dim {} and {} heads can't be run",
                        config.patch_size[0], patch_y, patch_x, config.dim, config.num_heads));
    }
    if (options_.latent_height % patch_y || options_.latent_width % patch_x) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("the latent size {}x{} is no multiple of the patch {}x{}",
                                options_.latent_width, options_.latent_height, patch_x, patch_y));
    }
    layers_ = options_.layers ? options_.layers : config.num_layers;
    grid_rows_ = options_.latent_height / patch_y;
    grid_columns_ = options_.latent_width / patch_x;
    tokens_ = options_.latent_frames * grid_rows_ * grid_columns_;
    dim_stride_ = round_up(config.dim, 4);

    declare_weights();
    context_ =
        add_matrix(program_, "context", config.text_len, config.text_dim, Lifetime::persistent);
    const int latent_floats =
        options_.latent_frames * options_.latent_height * options_.latent_width;
    latent_ = program_.add("latent", static_cast<std::uint64_t>(config.in_dim * latent_floats) * 4,
                           Lifetime::persistent);
    sinusoid_ =
        program_.add("time_sinusoid", static_cast<std::uint64_t>(round_up(config.freq_dim, 4)) * 4,
                     Lifetime::persistent);
    for (int b = 0; b < options_.branches; ++b) {
        velocity_.push_back(program_.add(
            fmt::format("velocity.{}", b),
            static_cast<std::uint64_t>(config.out_dim * latent_floats) * 4, Lifetime::persistent));
    }
    watch_ = program_.add("watch", static_cast<std::uint64_t>(1 + kSitesPerBlock * layers_) * 4,
                          Lifetime::persistent);
    declare_attention();
    if (has_step(attention::StepKind::reused)) {
        for (int b = 0; b < options_.branches; ++b) {
            added_.push_back(add_matrix(program_, fmt::format("blocks_added.{}", b), tokens_,
                                        config.dim, Lifetime::persistent));
        }
    }
    for (int b = 0; b < options_.branches; ++b) build_text(b);
    for (const attention::StepKind kind : options_.step_kinds) {
        for (int b = 0; b < options_.branches; ++b) build_step(b, kind);
    }
}

Linear WanDit::linear(const std::string& name, int n, int k, const std::string& shares_input_with) {
    Linear result;
    result.name = name;
    result.n = n;
    result.k = k;
    if (options_.weight_bits >= 16) {
        result.weight = weights_.linear(name, n, k, true);
        return result;
    }
    result.quantized = weights_.quantized(name, n, k, options_.weight_bits, true);
    result.activation_bits = options_.activation_bits;
    for (const auto& [other, transform] : transforms_) {
        if (other == shares_input_with) {
            result.transform = transform;
            return result;
        }
    }
    result.transform = weights_.input_transform(name, k, options_.transforms);
    transforms_.emplace_back(name, result.transform);
    return result;
}

void WanDit::declare_weights() {
    const auto& c = options_.config;
    const int patch = c.patch_size[0] * c.patch_size[1] * c.patch_size[2];
    patch_embedding_ = weights_.linear("patch_embedding", c.dim, c.in_dim * patch, true);
    text_0_ = weights_.linear("text_embedding.0", c.dim, c.text_dim, true);
    text_2_ = weights_.linear("text_embedding.2", c.dim, c.dim, true);
    time_0_ = weights_.linear("time_embedding.0", c.dim, c.freq_dim, true);
    time_2_ = weights_.linear("time_embedding.2", c.dim, c.dim, true);
    time_projection_ = weights_.linear("time_projection.1", 6 * c.dim, c.dim, true, 6);
    head_ = weights_.linear("head.head", c.out_dim * patch, c.dim, true);
    head_modulation_ = weights_.vector("head.modulation", 2 * c.dim, 2);
    const int positions = std::max({options_.latent_frames, grid_rows_, grid_columns_});
    rope_table_ = weights_.computed("rope_table", positions * c.head_dim(),
                                    [dim = c.head_dim(), positions](const WeightSource&) {
                                        return make_rope_table(dim, positions);
                                    });
    std::vector<std::string> tables;
    for (int i = 0; i < layers_; ++i) {
        const std::string b = fmt::format("blocks.{}.", i);
        tables.push_back(b + "modulation");
        Block block;
        const std::string layer = fmt::format("block {}", i);
        std::optional<Program::Grouping> grouping;  // what may be streamed together
        grouping.emplace(program_, StreamGroup{StreamGroup::Kind::weights, layer});
        block.self_q = linear(b + "self_attn.q", c.dim, c.dim);
        block.self_k = linear(b + "self_attn.k", c.dim, c.dim, b + "self_attn.q");
        block.self_v = linear(b + "self_attn.v", c.dim, c.dim, b + "self_attn.q");
        block.self_o = linear(b + "self_attn.o", c.dim, c.dim);
        block.cross_q = linear(b + "cross_attn.q", c.dim, c.dim);
        block.cross_o = linear(b + "cross_attn.o", c.dim, c.dim);
        block.ffn_0 = linear(b + "ffn.0", c.ffn_dim, c.dim);
        block.ffn_2 = linear(b + "ffn.2", c.dim, c.ffn_dim);
        if (c.qk_norm) {
            block.self_norm_q = weights_.vector(b + "self_attn.norm_q.weight", c.dim);
            block.self_norm_k = weights_.vector(b + "self_attn.norm_k.weight", c.dim);
            block.cross_norm_q = weights_.vector(b + "cross_attn.norm_q.weight", c.dim);
        }
        if (c.cross_attn_norm) {
            block.norm3_weight = weights_.vector(b + "norm3.weight", c.dim);
            block.norm3_bias = weights_.vector(b + "norm3.bias", c.dim);
        }
        grouping.emplace(program_, StreamGroup{StreamGroup::Kind::prompt_weights, layer});
        block.cross_k = linear(b + "cross_attn.k", c.dim, c.dim);
        block.cross_v = linear(b + "cross_attn.v", c.dim, c.dim, b + "cross_attn.k");
        if (c.qk_norm) {
            block.cross_norm_k = weights_.vector(b + "cross_attn.norm_k.weight", c.dim);
        }
        for (int branch = 0; branch < options_.branches; ++branch) {
            grouping.emplace(program_, StreamGroup{StreamGroup::Kind::prompt, layer});
            block.cross_keys.push_back(
                add_head_matrix(program_, fmt::format("{}cross_attn.keys.{}", b, branch),
                                c.num_heads, c.text_len, c.head_dim(), Lifetime::persistent));
            block.cross_values.push_back(
                add_head_matrix(program_, fmt::format("{}cross_attn.values.{}", b, branch),
                                c.num_heads, c.text_len, c.head_dim(), Lifetime::persistent));
        }
        blocks_.push_back(std::move(block));
    }
    modulation_tables_ = weights_.concatenated(tables, 6 * c.dim, 6);
}

void WanDit::build_text(int branch) {
    const auto& c = options_.config;
    text_phase_.push_back(program_.begin_phase(fmt::format("text.{}", branch)));
    const Matrix hidden = add_matrix(program_, "text_hidden", c.text_len, c.dim);
    const Matrix text = add_matrix(program_, "text_embedding", c.text_len, c.dim);
    Epilogue gelu;
    gelu.activation = Activation::gelu_tanh;
    matmul(program_, "text_embedding.0", context_, text_0_, hidden, gelu);
    matmul(program_, "text_embedding.2", hidden, text_2_, text);
    if (branch == 0) keep(program_, "text_embedding", text);
    for (Block& block : blocks_) {
        const std::size_t b = static_cast<std::size_t>(branch);
        const LinearInput input = prepare_input(program_, block.cross_k, text);
        const Matrix keys = add_matrix(program_, "cross_attn.k", c.text_len, c.dim);
        const Matrix values = add_matrix(program_, "cross_attn.v", c.text_len, c.dim);
        apply(program_, "cross_attn.k", block.cross_k, input, keys);
        apply(program_, "cross_attn.v", block.cross_v, input, values);
        kernels::HeadTransform norm;
        norm.norm_weight = block.cross_norm_k;
        norm.eps = c.eps;
        split_heads(program_, "cross_attn.split_k", keys, block.cross_keys[b], norm);
        split_heads(program_, "cross_attn.split_v", values, block.cross_values[b]);
    }
}

kernels::HeadTransform WanDit::rope() const {
    kernels::HeadTransform transform;
    transform.eps = options_.config.eps;
    transform.rope_table = rope_table_;
    transform.grid = {grid_rows_, grid_columns_};
    const int head_dim = options_.config.head_dim();
    transform.pairs = {time_pairs(head_dim), row_pairs(head_dim)};
    return transform;
}

kernels::Norm WanDit::watched(const std::string& site) {
    Norm norm;
    norm.eps = options_.config.eps;
    norm.watch = watch_;
    const auto found = std::find(sites_.begin(), sites_.end(), site);
    norm.site = static_cast<int>(found - sites_.begin());
    if (found == sites_.end()) sites_.push_back(site);
    return norm;
}

std::string WanDit::non_finite_site(const program::Executor& executor) const {
    const auto flags = executor.read_values<std::uint32_t>(watch_, sites_.size());
    const auto first =
        std::find(flags.begin(), flags.end(), 1u);  // sites are in order of computation
    return first == flags.end() ? "" : sites_[static_cast<std::size_t>(first - flags.begin())];
}

void WanDit::build_step(int branch, attention::StepKind kind) {
    const auto& c = options_.config;
    constexpr const char* kNames[] = {"step", "refresh", "sparse", "reused"};
    step_phase_[{branch, kind}] =
        program_.begin_phase(fmt::format("{}.{}", kNames[static_cast<int>(kind)], branch));
    const bool first = branch == 0 && kind == options_.step_kinds.front();

    // Time: e for the head, e0 (six vectors) for the blocks; both stay fp32 (wan fact 3).
    const Matrix sinusoid{sinusoid_, 1, c.freq_dim, round_up(c.freq_dim, 4), 0};
    const Matrix time_hidden = add_matrix(program_, "time_hidden", 1, c.dim);
    const Matrix time_e = add_matrix(program_, "time_e", 1, c.dim);
    const Matrix time_silu = add_matrix(program_, "time_silu", 1, c.dim);
    const Matrix time_e0 = add_matrix(program_, "time_e0", 1, 6 * dim_stride_);
    Epilogue silu;
    silu.activation = Activation::silu;
    matmul(program_, "time_embedding.0", sinusoid, time_0_, time_hidden, silu);
    matmul(program_, "time_embedding.2", time_hidden, time_2_, time_e);
    const Tensor modulation =
        program_.add("modulation", static_cast<std::uint64_t>(layers_ * 6 * dim_stride_) * 4);
    if (kind != attention::StepKind::reused) {
        kernels::apply_silu(program_, "time_silu", time_e.tensor, time_silu.tensor, dim_stride_);
        matmul(program_, "time_projection", time_silu, time_projection_, time_e0);
        kernels::add_repeated(program_, "modulation", modulation_tables_, time_e0.tensor,
                              modulation, layers_ * 6 * dim_stride_, 6 * dim_stride_);
    }
    const Tensor head_modulation =
        program_.add("head_modulation", static_cast<std::uint64_t>(2 * dim_stride_) * 4);
    kernels::add_repeated(program_, "head_modulation", head_modulation_, time_e.tensor,
                          head_modulation, 2 * dim_stride_, dim_stride_);

    // Patches: features (channel, row, column) of a token; tokens in (frame, row, column) order
    // (wan fact 1).
    const int py = c.patch_size[1], px = c.patch_size[2];
    const int plane = options_.latent_height * options_.latent_width;
    const int rows =
        options_.latent_frames * grid_rows_;  // frame and row step through memory evenly
    const Matrix patches = add_matrix(program_, "patches", tokens_, c.in_dim * py * px);
    kernels::Permutation patchify;
    patchify.size = {rows, grid_columns_, c.in_dim, py, px};
    patchify.in_stride = {py * options_.latent_width, px, options_.latent_frames * plane,
                          options_.latent_width, 1};
    patchify.out_stride = {grid_columns_ * patches.stride, patches.stride, py * px, px, 1};
    kernels::permute(program_, "patchify", latent_, patches.tensor, patchify);
    const Matrix x = add_matrix(program_, "x", tokens_, c.dim);
    matmul(program_, "patch_embedding", patches, patch_embedding_, x);
    if (first) {
        keep(program_, "time_sinusoid", sinusoid);
        keep(program_, "time_e", time_e);
        keep(program_, "time_e0", Matrix{time_e0.tensor, 6, c.dim, dim_stride_, 0});
        keep(program_, "patch_embedding", x);
    }

    const Matrix* added = reuses() ? &added_[static_cast<std::size_t>(branch)] : nullptr;
    if (kind == attention::StepKind::reused) {
        kernels::add(program_, "blocks_added.reuse", x, *added, x);
    } else {
        if (added) kernels::copy(program_, "blocks_added.before", x, *added);
        for (int i = 0; i < layers_; ++i) build_block(i, branch, kind, x, modulation);
        if (added) kernels::subtract(program_, "blocks_added.keep", x, *added, *added);
    }

    const Matrix normed = add_matrix(program_, "head_norm", tokens_, c.dim);
    Norm norm = watched(layers_ ? fmt::format("block {}, after the feed-forward", layers_ - 1)
                                : "the patch embedding");
    norm.modulation = head_modulation;
    norm.shift_offset = 0;
    norm.scale_offset = dim_stride_;
    normalize_rows(program_, "head_norm", x, normed, norm);
    const Matrix head = add_matrix(program_, "head", tokens_, c.out_dim * py * px);
    matmul(program_, "head", normed, head_, head);
    if (first) keep(program_, "head", head);

    // Not the mirror of patchify: head features are (row, column, channel), channel fastest.
    kernels::Permutation unpatchify;
    unpatchify.size = {rows, py, grid_columns_, px, c.out_dim};
    unpatchify.in_stride = {grid_columns_ * head.stride, px * c.out_dim, head.stride, c.out_dim, 1};
    unpatchify.out_stride = {py * options_.latent_width, options_.latent_width, px, 1,
                             options_.latent_frames * plane};
    kernels::permute(program_, "unpatchify", head.tensor, velocity(branch), unpatchify);
}

void WanDit::build_block(int index, int branch, attention::StepKind kind, const Matrix& x,
                         Tensor modulation) {
    const auto& c = options_.config;
    const Block& block = blocks_[static_cast<std::size_t>(index)];
    const std::size_t b = static_cast<std::size_t>(branch);
    const std::string mid = fmt::format("block{}.", index);
    const int table = index * 6 * dim_stride_;
    const auto offset = [&](ModulationVector v) { return table + v * dim_stride_; };
    const bool kept = branch == 0 && kind == options_.step_kinds.front();
    kernels::AttentionOptions attention;
    attention.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim()));

    {  // self-attention
        const Matrix u = add_matrix(program_, "norm1", tokens_, c.dim);
        Norm norm = watched(index ? fmt::format("block {}, after the feed-forward", index - 1)
                                  : "the patch embedding");
        norm.modulation = modulation;
        norm.shift_offset = offset(kShift1);
        norm.scale_offset = offset(kScale1);
        normalize_rows(program_, "norm1", x, u, norm);
        const Matrix out =
            build_self_attention(index, branch, kind, prepare_input(program_, block.self_q, u));
        if (kept) keep(program_, mid + "self_attn.attn", out);
        Epilogue add;
        add.residual = &x;
        add.gate = modulation;
        add.gate_offset = offset(kGate1);
        apply(program_, "self_attn.o", block.self_o, prepare_input(program_, block.self_o, out), x,
              add);
        if (kept) keep(program_, mid + "after_self_attn", x);
    }

    {  // cross-attention: no gate, no RoPE, every padded text row attended to (wan facts 5, 8)
        Matrix u = x;
        if (c.cross_attn_norm) {
            u = add_matrix(program_, "norm3", tokens_, c.dim);
            Norm norm = watched(fmt::format("block {}, after self-attention", index));
            norm.weight = block.norm3_weight;
            norm.bias = block.norm3_bias;
            normalize_rows(program_, "norm3", x, u, norm);
        }
        const Matrix rows = add_matrix(program_, "cross_q", tokens_, c.dim);
        apply(program_, "cross_attn.q", block.cross_q, prepare_input(program_, block.cross_q, u),
              rows);
        const HeadMatrix q =
            add_head_matrix(program_, "cross_q_heads", c.num_heads, tokens_, c.head_dim());
        kernels::HeadTransform norm_only;
        norm_only.norm_weight = block.cross_norm_q;
        norm_only.eps = c.eps;
        split_heads(program_, "cross_attn.split_q", rows, q, norm_only);
        const Matrix out = add_matrix(program_, "cross_attn", tokens_, c.dim);
        kernels::attention(program_, "cross_attn.attention", q, block.cross_keys[b],
                           block.cross_values[b], out, attention);
        if (kept) keep(program_, mid + "cross_attn.attn", out);
        Epilogue add;
        add.residual = &x;
        apply(program_, "cross_attn.o", block.cross_o, prepare_input(program_, block.cross_o, out),
              x, add);
        if (kept) keep(program_, mid + "after_cross_attn", x);
    }

    for (int first = 0; first < tokens_; first += kFfnRows) {
        const int count = std::min(kFfnRows, tokens_ - first);
        const Matrix chunk = x.slice(first, count);
        const Matrix u = add_matrix(program_, "norm2", count, c.dim);
        Norm norm = watched(fmt::format("block {}, after cross-attention", index));
        norm.modulation = modulation;
        norm.shift_offset = offset(kShift2);
        norm.scale_offset = offset(kScale2);
        normalize_rows(program_, "norm2", chunk, u, norm);
        const Matrix hidden = add_matrix(program_, "ffn_hidden", count, c.ffn_dim);
        Epilogue gelu;
        gelu.activation = Activation::gelu_tanh;
        apply(program_, "ffn.0", block.ffn_0, prepare_input(program_, block.ffn_0, u), hidden,
              gelu);
        Epilogue add;
        add.residual = &chunk;
        add.gate = modulation;
        add.gate_offset = offset(kGate2);
        apply(program_, "ffn.2", block.ffn_2, prepare_input(program_, block.ffn_2, hidden), chunk,
              add);
    }
    if (kept) keep(program_, mid + "after_ffn", x);
}

}  // namespace quantsparse::models
