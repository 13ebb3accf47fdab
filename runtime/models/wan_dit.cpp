#include "models/wan_dit.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <cmath>

#include "kernels/attention.hpp"
#include "kernels/copy.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::models {
namespace {

using attention::StepKind;
using kernels::Activation;
using kernels::add_head_matrix;
using kernels::add_matrix;
using kernels::Epilogue;
using kernels::HeadMatrix;
using kernels::Norm;
using kernels::round_up;
using program::Lifetime;
using program::StreamGroup;

constexpr int kPartsOfBlock = 3;  ///< WanDit::Part

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

/// Places of non-finite values, in the order of computation; block -1 is the patch embedding.
std::vector<std::string> watched_sites(int layers) {
    std::vector<std::string> sites = {"the patch embedding"};
    for (int i = 0; i < layers; ++i) {
        for (const char* part : {"self-attention", "cross-attention", "the feed-forward"}) {
            sites.push_back(fmt::format("block {}, after {}", i, part));
        }
    }
    return sites;
}

/// Rows [n, columns] spread to `stride` and padded with zeros to `rows` rows.
std::vector<float> padded_rows(std::span<const float> values, int columns, int stride, int rows) {
    const std::size_t width = static_cast<std::size_t>(columns);
    const std::size_t count = values.size() / width;
    if (count > static_cast<std::size_t>(rows)) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("the prompt has {} tokens, the model takes {}", count, rows));
    }
    std::vector<float> padded(static_cast<std::size_t>(rows) * static_cast<std::size_t>(stride),
                              0.0f);
    for (std::size_t r = 0; r < count; ++r) {
        std::copy_n(
            values.begin() + static_cast<std::ptrdiff_t>(r * width), width,
            padded.begin() + static_cast<std::ptrdiff_t>(r * static_cast<std::size_t>(stride)));
    }
    return padded;
}

}  // namespace

std::vector<float> time_sinusoid(int freq_dim, double timestep) {
    const int half = freq_dim / 2;
    std::vector<float> values(static_cast<std::size_t>(round_up(freq_dim, 4)), 0.0f);
    for (int j = 0; j < half; ++j) {
        const double angle = timestep * std::pow(10000.0, -static_cast<double>(j) / half);
        values[static_cast<std::size_t>(j)] = static_cast<float>(std::cos(angle));
        values[static_cast<std::size_t>(half + j)] = static_cast<float>(std::sin(angle));
    }
    return values;
}

WanDit::WanDit(Program& program, const format::Network& network, const DenoisingOptions& options)
    : config_(network.config_as<format::WanDitConfig>()),
      options_(options),
      program_(program),
      weights_(program, options.half) {
    const int patch_y = config_.patch_size[1], patch_x = config_.patch_size[2];
    if (config_.patch_size[0] != 1 || config_.dim % config_.num_heads != 0 ||
        config_.head_dim() % 2 != 0) {
        throw Error(
            ErrorCode::unsupported,
            fmt::format("a Wan transformer with patch {}x{}x{}, dim {} and {} heads can't be run",
                        config_.patch_size[0], patch_y, patch_x, config_.dim, config_.num_heads));
    }
    const LatentShape& latent = options_.latent;
    if (latent.height % patch_y || latent.width % patch_x) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("the latent size {}x{} is no multiple of the patch {}x{}",
                                latent.width, latent.height, patch_x, patch_y));
    }
    layers_ = options_.layers ? options_.layers : config_.num_layers;
    grid_rows_ = latent.height / patch_y;
    grid_columns_ = latent.width / patch_x;
    grid_.frames = latent.frames;
    grid_.places = grid_rows_ * grid_columns_;
    grid_.columns = grid_columns_;
    dim_stride_ = round_up(config_.dim, 4);

    declare_weights(network);
    declare_inputs();
    watch_.emplace(program_, watched_sites(layers_));
    attention_.emplace(program_,
                       SparseSelfAttention::Shape{grid_, config_.num_heads, config_.head_dim(),
                                                  config_.sparse_linear},
                       options_.attention, layers_, options_.branches, options_.step_kinds);
    if (has_step(StepKind::reused)) {
        for (int b = 0; b < options_.branches; ++b) {
            added_.push_back(add_matrix(program_, fmt::format("blocks_added.{}", b), tokens(),
                                        config_.dim, Lifetime::persistent));
        }
    }
    for (int b = 0; b < options_.branches; ++b) build_prompt(b);
    for (const StepKind kind : options_.step_kinds) {
        for (int b = 0; b < options_.branches; ++b) build_step(b, kind);
    }
}

bool WanDit::has_step(StepKind kind) const {
    return std::find(options_.step_kinds.begin(), options_.step_kinds.end(), kind) !=
           options_.step_kinds.end();
}

void WanDit::declare_inputs() {
    const auto& c = config_;
    context_ = add_matrix(program_, "context", c.text_len, c.text_dim, Lifetime::persistent);
    const int latent_floats =
        options_.latent.frames * options_.latent.height * options_.latent.width;
    latent_ = program_.add("latent", static_cast<std::uint64_t>(c.in_dim * latent_floats) * 4,
                           Lifetime::persistent);
    sinusoid_ =
        program_.add("time_sinusoid", static_cast<std::uint64_t>(round_up(c.freq_dim, 4)) * 4,
                     Lifetime::persistent);
    for (int b = 0; b < options_.branches; ++b) {
        velocity_.push_back(program_.add(fmt::format("velocity.{}", b),
                                         static_cast<std::uint64_t>(c.out_dim * latent_floats) * 4,
                                         Lifetime::persistent));
    }
    // Padded with zeros before the text MLP; the padding is attended to (wan fact 8).
    inputs_.push_back({"context", context_.tensor,
                       static_cast<std::size_t>(c.text_len * c.text_dim),
                       [c, stride = context_.stride](std::span<const float> values) {
                           return padded_rows(values, c.text_dim, stride, c.text_len);
                       }});
    inputs_.push_back({"latent", latent_, static_cast<std::size_t>(c.in_dim * latent_floats), {}});
    inputs_.push_back({"timestep", sinusoid_, 1, [dim = c.freq_dim](std::span<const float> values) {
                           return time_sinusoid(dim, values.front());
                       }});
}

void WanDit::declare_weights(const format::Network& network) {
    const auto& c = config_;
    const int patch = c.patch_size[0] * c.patch_size[1] * c.patch_size[2];
    patch_embedding_ = weights_.linear("patch_embedding", c.dim, c.in_dim * patch, true);
    text_0_ = weights_.linear("text_embedding.0", c.dim, c.text_dim, true);
    text_2_ = weights_.linear("text_embedding.2", c.dim, c.dim, true);
    time_0_ = weights_.linear("time_embedding.0", c.dim, c.freq_dim, true);
    time_2_ = weights_.linear("time_embedding.2", c.dim, c.dim, true);
    time_projection_ = weights_.linear("time_projection.1", 6 * c.dim, c.dim, true, 6);
    head_ = weights_.linear("head.head", c.out_dim * patch, c.dim, true);
    head_modulation_ = weights_.vector("head.modulation", 2 * c.dim, 2);
    const int positions = std::max({grid_.frames, grid_rows_, grid_columns_});
    rope_table_ = weights_.computed("rope_table", positions * c.head_dim(),
                                    [dim = c.head_dim(), positions](const WeightSource&) {
                                        return make_rope_table(dim, positions);
                                    });
    BlockLinears linears(weights_, options_.quantization, options_.transforms, options_.lora_ranks);
    std::vector<std::string> tables;
    for (int i = 0; i < layers_; ++i) {
        const format::NetworkBlock& block = network.blocks.at(static_cast<std::size_t>(i));
        tables.push_back(block.prefix + "modulation");
        blocks_.push_back(declare_block(block, fmt::format("block {}", i), linears));
    }
    modulation_tables_ = weights_.concatenated(tables, 6 * c.dim, 6);
}

WanDit::Block WanDit::declare_block(const format::NetworkBlock& described, const std::string& layer,
                                    BlockLinears& linears) {
    const auto& c = config_;
    const std::string& b = described.prefix;
    Block block;
    std::optional<Program::Grouping> grouping;  // what may be streamed together
    grouping.emplace(program_, StreamGroup{StreamGroup::Kind::weights, layer});
    block.self_qkv = linears.declare(described, "self_qkv");
    block.self_o = linears.declare(described, "self_o");
    block.cross_q = linears.declare(described, "cross_q");
    block.cross_o = linears.declare(described, "cross_o");
    block.ffn_0 = linears.declare(described, "ffn_0");
    block.ffn_2 = linears.declare(described, "ffn_2");
    if (c.qk_norm) {
        block.self_norm_q = weights_.vector(b + "self_attn.norm_q.weight", c.dim);
        block.self_norm_k = weights_.vector(b + "self_attn.norm_k.weight", c.dim);
        block.cross_norm_q = weights_.vector(b + "cross_attn.norm_q.weight", c.dim);
    }
    if (c.sparse_linear) {
        block.linear_projection =
            weights_.full_linear(b + format::kLinearProjection, c.head_dim(), c.head_dim());
    }
    if (c.cross_attn_norm) {
        block.norm3_weight = weights_.vector(b + "norm3.weight", c.dim);
        block.norm3_bias = weights_.vector(b + "norm3.bias", c.dim);
    }
    grouping.emplace(program_, StreamGroup{StreamGroup::Kind::prompt_weights, layer});
    block.cross_kv = linears.declare(described, "cross_kv");
    if (c.qk_norm) {
        block.cross_norm_k = weights_.vector(b + "cross_attn.norm_k.weight", c.dim);
    }
    for (int branch = 0; branch < options_.branches; ++branch) {
        grouping.emplace(program_, StreamGroup{StreamGroup::Kind::prompt, layer});
        const auto add = [&](const char* name) {
            return add_head_matrix(program_, fmt::format("{}cross_attn.{}.{}", b, name, branch),
                                   c.num_heads, c.text_len, c.head_dim(), Lifetime::persistent);
        };
        block.cross_keys.push_back(add("keys"));
        block.cross_values.push_back(add("values"));
    }
    return block;
}

void WanDit::reset(program::Executor& executor) const {
    watch_->reset(executor);
    attention_->reset(executor);
}

void WanDit::build_prompt(int branch) {
    const auto& c = config_;
    prompt_phase_.push_back(program_.begin_phase(fmt::format("text.{}", branch)));
    const Matrix hidden = add_matrix(program_, "text_hidden", c.text_len, c.dim);
    const Matrix text = add_matrix(program_, "text_embedding", c.text_len, c.dim);
    Epilogue gelu;
    gelu.activation = Activation::gelu_tanh;
    matmul(program_, "text_embedding.0", context_, text_0_, hidden, gelu);
    matmul(program_, "text_embedding.2", hidden, text_2_, text);
    if (branch == 0) keep(program_, "text_embedding", text);
    for (Block& block : blocks_) {
        const std::size_t b = static_cast<std::size_t>(branch);
        const LinearInput input = prepare_input(program_, block.cross_kv[0], text);
        const Matrix keys = add_matrix(program_, "cross_attn.k", c.text_len, c.dim);
        const Matrix values = add_matrix(program_, "cross_attn.v", c.text_len, c.dim);
        apply(program_, "cross_attn.k", block.cross_kv[0], input, keys);
        apply(program_, "cross_attn.v", block.cross_kv[1], input, values);
        kernels::HeadTransform norm;
        norm.norm_weight = block.cross_norm_k;
        norm.eps = c.eps;
        split_heads(program_, "cross_attn.split_k", keys, block.cross_keys[b], norm);
        split_heads(program_, "cross_attn.split_v", values, block.cross_values[b]);
    }
}

kernels::HeadTransform WanDit::rope(Tensor norm_weight) const {
    kernels::HeadTransform transform;
    transform.norm_weight = norm_weight;
    transform.eps = config_.eps;
    transform.rope_table = rope_table_;
    transform.grid = {grid_rows_, grid_columns_};
    const int head_dim = config_.head_dim();
    transform.pairs = {time_pairs(head_dim), row_pairs(head_dim)};
    return transform;
}

Modulation WanDit::modulation(const Step& step, int index, int shift, int scale, int gate) const {
    const auto offset = [&](int vector) { return (index * 6 + vector) * dim_stride_; };
    return {step.modulation, offset(shift), offset(scale), offset(gate)};
}

kernels::Norm WanDit::norm_after(int index, Part part) const {
    const int site = index < 0 ? 0 : 1 + kPartsOfBlock * index + static_cast<int>(part);
    return watch_->norm(site, config_.eps);
}

void WanDit::keep_middle(int index, const Step& step, const char* name, const Matrix& matrix) {
    if (step.kept) keep(program_, fmt::format("block{}.{}", index, name), matrix);
}

void WanDit::build_step(int branch, StepKind kind) {
    constexpr const char* kNames[] = {"step", "refresh", "sparse", "reused"};
    step_phase_[{branch, kind}] =
        program_.begin_phase(fmt::format("{}.{}", kNames[static_cast<int>(kind)], branch));
    Step step{branch, kind, branch == 0 && kind == options_.step_kinds.front(), {}};
    const Matrix time_e = build_time(step);
    const Tensor head_modulation =
        program_.add("head_modulation", static_cast<std::uint64_t>(2 * dim_stride_) * 4);
    kernels::add_repeated(program_, "head_modulation", head_modulation_, time_e.tensor,
                          head_modulation, 2 * dim_stride_, dim_stride_);
    const Matrix x = build_patches();
    if (step.kept) keep(program_, "patch_embedding", x);
    build_blocks(step, x);
    build_head(step, x, head_modulation);
}

/// Time: e for the head, e0 (six vectors) for the blocks; both stay fp32 (wan fact 3).
Matrix WanDit::build_time(Step& step) {
    const auto& c = config_;
    const Matrix sinusoid{sinusoid_, 1, c.freq_dim, round_up(c.freq_dim, 4), 0};
    const Matrix time_hidden = add_matrix(program_, "time_hidden", 1, c.dim);
    const Matrix time_e = add_matrix(program_, "time_e", 1, c.dim);
    const Matrix time_silu = add_matrix(program_, "time_silu", 1, c.dim);
    const Matrix time_e0 = add_matrix(program_, "time_e0", 1, 6 * dim_stride_);
    Epilogue silu;
    silu.activation = Activation::silu;
    matmul(program_, "time_embedding.0", sinusoid, time_0_, time_hidden, silu);
    matmul(program_, "time_embedding.2", time_hidden, time_2_, time_e);
    step.modulation =
        program_.add("modulation", static_cast<std::uint64_t>(layers_ * 6 * dim_stride_) * 4);
    if (step.kind != StepKind::reused) {
        kernels::apply_silu(program_, "time_silu", time_e.tensor, time_silu.tensor, dim_stride_);
        matmul(program_, "time_projection", time_silu, time_projection_, time_e0);
        kernels::add_repeated(program_, "modulation", modulation_tables_, time_e0.tensor,
                              step.modulation, layers_ * 6 * dim_stride_, 6 * dim_stride_);
    }
    if (step.kept) {
        keep(program_, "time_sinusoid", sinusoid);
        keep(program_, "time_e", time_e);
        keep(program_, "time_e0", Matrix{time_e0.tensor, 6, c.dim, dim_stride_, 0});
    }
    return time_e;
}

/// Patches: features (channel, row, column) of a token; tokens in (frame, row, column) order
/// (wan fact 1).
Matrix WanDit::build_patches() {
    const auto& c = config_;
    const LatentShape& latent = options_.latent;
    const int py = c.patch_size[1], px = c.patch_size[2];
    const int plane = latent.height * latent.width;
    const int rows = latent.frames * grid_rows_;  // frame and row step through memory evenly
    const Matrix patches = add_matrix(program_, "patches", tokens(), c.in_dim * py * px);
    kernels::Permutation patchify;
    patchify.size = {rows, grid_columns_, c.in_dim, py, px};
    patchify.in_stride = {py * latent.width, px, latent.frames * plane, latent.width, 1};
    patchify.out_stride = {grid_columns_ * patches.stride, patches.stride, py * px, px, 1};
    kernels::permute(program_, "patchify", latent_, patches.tensor, patchify);
    const Matrix x = add_matrix(program_, "x", tokens(), c.dim);
    matmul(program_, "patch_embedding", patches, patch_embedding_, x);
    return x;
}

void WanDit::build_blocks(const Step& step, const Matrix& x) {
    const Matrix* added = added_.empty() ? nullptr : &added_[static_cast<std::size_t>(step.branch)];
    if (step.kind == StepKind::reused) {
        kernels::add(program_, "blocks_added.reuse", x, *added, x);
        return;
    }
    if (added) kernels::copy(program_, "blocks_added.before", x, *added);
    for (int i = 0; i < layers_; ++i) {
        build_self_attention(i, step, x);
        build_cross_attention(i, step, x);
        build_feed_forward(i, step, x);
    }
    if (added) kernels::subtract(program_, "blocks_added.keep", x, *added, *added);
}

void WanDit::build_head(const Step& step, const Matrix& x, Tensor head_modulation) {
    const auto& c = config_;
    const LatentShape& latent = options_.latent;
    const int py = c.patch_size[1], px = c.patch_size[2];
    const Matrix normed =
        modulated_norm(program_, "head_norm", x, norm_after(layers_ - 1, Part::feed_forward),
                       {head_modulation, 0, dim_stride_});
    const Matrix head = add_matrix(program_, "head", tokens(), c.out_dim * py * px);
    matmul(program_, "head", normed, head_, head);
    if (step.kept) keep(program_, "head", head);

    // Not the mirror of patchify: head features are (row, column, channel), channel fastest.
    kernels::Permutation unpatchify;
    unpatchify.size = {latent.frames * grid_rows_, py, grid_columns_, px, c.out_dim};
    unpatchify.in_stride = {grid_columns_ * head.stride, px * c.out_dim, head.stride, c.out_dim, 1};
    unpatchify.out_stride = {py * latent.width, latent.width, px, 1,
                             latent.frames * latent.height * latent.width};
    kernels::permute(program_, "unpatchify", head.tensor, prediction(step.branch), unpatchify);
}

void WanDit::build_self_attention(int index, const Step& step, const Matrix& x) {
    const Block& block = blocks_[static_cast<std::size_t>(index)];
    const Modulation vectors = modulation(step, index, kShift1, kScale1, kGate1);
    const Matrix u =
        modulated_norm(program_, "norm1", x, norm_after(index - 1, Part::feed_forward), vectors);
    const LinearInput input = prepare_input(program_, block.self_qkv[0], u);
    const auto project = [&](int which, const char* name) {
        const Matrix rows = add_matrix(program_, name, tokens(), config_.dim);
        apply(program_, std::string("self_attn.") + name,
              block.self_qkv[static_cast<std::size_t>(which)], input, rows);
        return rows;
    };
    SparseSelfAttention::Operands operands;
    operands.q = project(0, "q");
    operands.k = project(1, "k");
    operands.v = project(2, "v");
    operands.q_transform = rope(block.self_norm_q);
    operands.k_transform = rope(block.self_norm_k);
    operands.linear_projection = block.linear_projection;
    const Matrix out =
        attention_->build(index, step.branch, step.kind, operands,
                          step.kept ? fmt::format("block{}.self_attn.", index) : std::string());
    keep_middle(index, step, "self_attn.attn", out);
    add_output(program_, "self_attn.o", block.self_o[0], out, x, vectors);
    keep_middle(index, step, "after_self_attn", x);
}

/// Cross-attention: no gate, no RoPE, every padded text row attended to (wan facts 5, 8).
void WanDit::build_cross_attention(int index, const Step& step, const Matrix& x) {
    const auto& c = config_;
    const Block& block = blocks_[static_cast<std::size_t>(index)];
    const std::size_t branch = static_cast<std::size_t>(step.branch);
    Matrix u = x;
    if (c.cross_attn_norm) {
        u = add_matrix(program_, "norm3", tokens(), c.dim);
        Norm norm = norm_after(index, Part::self_attention);
        norm.weight = block.norm3_weight;
        norm.bias = block.norm3_bias;
        normalize_rows(program_, "norm3", x, u, norm);
    }
    const Matrix rows = add_matrix(program_, "cross_q", tokens(), c.dim);
    apply(program_, "cross_attn.q", block.cross_q[0], prepare_input(program_, block.cross_q[0], u),
          rows);
    const HeadMatrix q =
        add_head_matrix(program_, "cross_q_heads", c.num_heads, tokens(), c.head_dim());
    kernels::HeadTransform norm_only;
    norm_only.norm_weight = block.cross_norm_q;
    norm_only.eps = c.eps;
    split_heads(program_, "cross_attn.split_q", rows, q, norm_only);
    const Matrix out = add_matrix(program_, "cross_attn", tokens(), c.dim);
    kernels::AttentionOptions attention;
    attention.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim()));
    kernels::attention(program_, "cross_attn.attention", q, block.cross_keys[branch],
                       block.cross_values[branch], out, attention);
    keep_middle(index, step, "cross_attn.attn", out);
    add_output(program_, "cross_attn.o", block.cross_o[0], out, x, {});
    keep_middle(index, step, "after_cross_attn", x);
}

void WanDit::build_feed_forward(int index, const Step& step, const Matrix& x) {
    const Block& block = blocks_[static_cast<std::size_t>(index)];
    feed_forward(program_, block.ffn_0[0], block.ffn_2[0], x,
                 norm_after(index, Part::cross_attention),
                 modulation(step, index, kShift2, kScale2, kGate2));
    keep_middle(index, step, "after_ffn", x);
}

}  // namespace quantsparse::models
