#include "program/plan.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <numeric>
#include <optional>

#include "quantsparse/error.hpp"

namespace quantsparse::program {
namespace {

constexpr std::uint64_t kPreferredBlockBytes = 1ull << 30;

struct Use {
    std::uint32_t first = 0xFFFFFFFF;  ///< index of the first operation
    std::uint32_t last = 0;
    bool used() const { return first != 0xFFFFFFFF; }
};

std::uint64_t align_up(std::uint64_t value, std::uint64_t alignment) {
    return (value + alignment - 1) / alignment * alignment;
}

/// A block in which transient tensors lie wherever none that lives at the same time does.
class TransientBlock {
  public:
    explicit TransientBlock(std::size_t operations) : buckets_(operations / kBucket + 1) {}

    /// The lowest gap, or nothing when it would end behind `limit`.
    std::optional<std::uint64_t> place(const Use& use, std::uint64_t bytes, std::uint64_t limit) {
        std::vector<std::uint32_t> neighbours;
        for (std::size_t b = use.first / kBucket; b <= use.last / kBucket; ++b) {
            for (const std::uint32_t i : buckets_[b]) {
                if (placed_[i].use.first <= use.last && use.first <= placed_[i].use.last) {
                    neighbours.push_back(i);
                }
            }
        }
        std::sort(neighbours.begin(), neighbours.end(), [this](std::uint32_t x, std::uint32_t y) {
            return placed_[x].begin < placed_[y].begin;
        });
        std::uint64_t offset = 0;
        for (const std::uint32_t i : neighbours) {  // long-lived ones occur several times
            if (offset + bytes <= placed_[i].begin) break;
            offset = std::max(offset, placed_[i].end);
        }
        if (offset + bytes > limit) return std::nullopt;
        for (std::size_t b = use.first / kBucket; b <= use.last / kBucket; ++b) {
            buckets_[b].push_back(static_cast<std::uint32_t>(placed_.size()));
        }
        placed_.push_back({offset, offset + bytes, use});
        return offset;
    }

  private:
    /// Operations of a bucket: most tensors live in one or two, so that few others are looked at.
    static constexpr std::size_t kBucket = 64;

    struct Placed {
        std::uint64_t begin, end;
        Use use;
    };
    std::vector<Placed> placed_;
    std::vector<std::vector<std::uint32_t>> buckets_;  ///< what lives in each stretch of operations
};

/// Places pieces one after another, opening a block when the last one is full.
class Stacker {
  public:
    Stacker(std::vector<std::uint64_t>& block_bytes, std::uint64_t alignment,
            std::uint64_t block_limit)
        : block_bytes_(block_bytes), alignment_(alignment), block_limit_(block_limit) {}

    Place place(std::uint64_t bytes) {
        bytes = align_up(bytes, alignment_);
        if (!open_ || block_bytes_.back() + bytes > block_limit_) {
            block_bytes_.push_back(0);
            open_ = true;
        }
        const Place place{static_cast<std::uint32_t>(block_bytes_.size() - 1), block_bytes_.back()};
        block_bytes_.back() += bytes;
        total += bytes;
        return place;
    }

    std::uint64_t total = 0;

  private:
    std::vector<std::uint64_t>& block_bytes_;
    std::uint64_t alignment_;
    std::uint64_t block_limit_;
    bool open_ = false;
};

/// Gives streamed groups their slots: each phase's groups of a kind alternate between two, as far
/// as an earlier phase has not decided. Returns how many slots there are.
std::uint32_t assign_slots(const Program& program, std::vector<StreamPlace>& groups) {
    constexpr std::uint32_t kUndecided = 0xFFFFFFFF;
    struct Turn {
        std::uint32_t group = kNoGroup;  ///< used last
        std::uint32_t slots[2] = {kUndecided, kUndecided};
    };
    std::array<Turn, kStreamKinds> turns;
    std::vector<bool> decided(groups.size(), false);
    std::uint32_t slots = 0;
    for (const Operation& operation : program.operations()) {
        for (const Binding& binding : operation.bindings) {
            const std::uint32_t group = program.tensors()[binding.tensor.id].group;
            if (group == kNoGroup || !groups[group].streamed) continue;
            if (!binding.reads && !binding.writes) continue;
            const std::size_t kind = static_cast<std::size_t>(program.stream_groups()[group].kind);
            Turn& turn = turns[kind];
            if (turn.group == group) continue;
            if (!decided[group]) {
                const bool second =
                    turn.group != kNoGroup && groups[turn.group].slot == turn.slots[0];
                std::uint32_t& slot = turn.slots[second];
                if (slot == kUndecided) slot = slots++;
                groups[group].slot = slot;
                decided[group] = true;
            }
            turn.group = group;
        }
    }
    for (std::size_t g = 0; g < groups.size(); ++g) {
        if (!decided[g]) groups[g].streamed = false;  // no operation uses it
    }
    return slots;
}

/// Makes a plan in six acts, each of which needs those before it.
class Planner {
  public:
    Planner(const Program& program, const Residency& residency)
        : program_(program), residency_(residency), uses_(program.tensors().size()) {
        plan_.places.resize(program.tensors().size());
    }

    Plan make() {
        find_uses();
        choose_block_limit();
        choose_groups();
        Stacker constants(plan_.block_bytes, limits_.alignment, block_limit_);
        stack(constants, Lifetime::constant);
        Stacker persistent(plan_.block_bytes, limits_.alignment, block_limit_);
        stack(persistent, Lifetime::persistent);
        place_groups();
        plan_.constant_bytes = constants.total;
        plan_.working_bytes = persistent.total + place_transients();
        return std::move(plan_);
    }

  private:
    void find_uses() {
        const auto& operations = program_.operations();
        for (std::uint32_t i = 0; i < operations.size(); ++i) {
            for (const Binding& binding : operations[i].bindings) {
                if (!binding.reads && !binding.writes) continue;
                Use& use = uses_[binding.tensor.id];
                use.first = std::min(use.first, i);
                use.last = std::max(use.last, i);
                plan_.largest_binding_bytes = std::max(plan_.largest_binding_bytes, binding.bytes);
            }
        }
    }

    /// Blocks of a GiB at most where tensors allow: large allocations fail first when memory is
    /// fragmented.
    void choose_block_limit() {
        block_limit_ = std::min(limits_.max_block_bytes, kPreferredBlockBytes);
        for (const auto& tensor : tensors_) {
            block_limit_ = std::max(block_limit_, aligned(tensor));
            if (aligned(tensor) <= limits_.max_block_bytes) continue;
            throw Error(
                ErrorCode::out_of_memory,
                fmt::format("{} needs {:.0f} MiB in one piece, the device allocates {:.0f} at "
                            "most: lower the size or the frames",
                            tensor.name, static_cast<double>(tensor.bytes) / (1 << 20),
                            static_cast<double>(limits_.max_block_bytes) / (1 << 20)));
        }
    }

    /// Which groups are streamed, and in which slot.
    void choose_groups() {
        const std::vector<std::uint64_t> sizes = group_bytes(program_);
        plan_.groups.resize(sizes.size());
        for (std::uint32_t g = 0; g < sizes.size(); ++g) {
            plan_.groups[g].streamed = residency_.streams(g);
            plan_.groups[g].bytes = sizes[g];
        }
        plan_.slots = assign_slots(program_, plan_.groups);
        for (const StreamPlace& group : plan_.groups) {
            if (!group.streamed) continue;
            block_limit_ = std::max(block_limit_, group.bytes);
            if (group.bytes > limits_.max_block_bytes) {
                throw Error(
                    ErrorCode::out_of_memory,
                    "a layer exceeds what the device allocates at once: it can't be streamed");
            }
        }
    }

    /// The resident tensors of a lifetime, and the slots of streamed ones: weights beside
    /// constants, all else beside persistent tensors.
    void stack(Stacker& stacker, Lifetime lifetime) {
        for (std::uint32_t i = 0; i < tensors_.size(); ++i) {
            if (tensors_[i].lifetime != lifetime || is_streamed(tensors_[i])) continue;
            plan_.places[i] = stacker.place(tensors_[i].bytes);
            if (tensors_[i].group != kNoGroup) {
                plan_.device_bytes_of_kind[kind_of(tensors_[i].group)] += aligned(tensors_[i]);
            }
        }
        for (std::uint32_t slot = 0; slot < plan_.slots; ++slot) {
            std::uint64_t bytes = 0;
            std::size_t kind = 0;
            for (std::uint32_t g = 0; g < plan_.groups.size(); ++g) {
                if (!plan_.groups[g].streamed || plan_.groups[g].slot != slot) continue;
                bytes = std::max(bytes, plan_.groups[g].bytes);
                kind = kind_of(g);
            }
            if (is_weights(kind) != (lifetime == Lifetime::constant)) continue;
            const Place place = stacker.place(bytes);
            plan_.device_bytes_of_kind[kind] += bytes;
            for (StreamPlace& group : plan_.groups) {
                if (group.streamed && group.slot == slot) group.device = place;
            }
        }
    }

    /// Streamed groups in host memory, and their tensors in the slots.
    void place_groups() {
        Stacker host(plan_.host_block_bytes, limits_.alignment, block_limit_);
        for (std::uint32_t g = 0; g < plan_.groups.size(); ++g) {
            if (!plan_.groups[g].streamed) continue;
            plan_.groups[g].host = host.place(plan_.groups[g].bytes);
            plan_.host_bytes_of_kind[kind_of(g)] += plan_.groups[g].bytes;
        }
        std::vector<std::uint64_t> filled(plan_.groups.size(), 0);
        for (std::uint32_t i = 0; i < tensors_.size(); ++i) {
            if (!is_streamed(tensors_[i])) continue;
            const StreamPlace& group = plan_.groups[tensors_[i].group];
            std::uint64_t& offset = filled[tensors_[i].group];
            plan_.places[i] = {group.device.block, group.device.offset + offset};
            offset += aligned(tensors_[i]);
        }
    }

    /// Operations are in phase order, so lifetimes by operation index keep phases apart by
    /// themselves. Returns the bytes of the blocks.
    std::uint64_t place_transients() {
        std::vector<std::uint32_t> order;
        for (std::uint32_t i = 0; i < tensors_.size(); ++i) {
            if (tensors_[i].lifetime == Lifetime::transient && uses_[i].used()) order.push_back(i);
        }
        std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
            return tensors_[a].bytes > tensors_[b].bytes;
        });
        std::vector<TransientBlock> blocks;
        const std::uint32_t first_block = static_cast<std::uint32_t>(plan_.block_bytes.size());
        for (const std::uint32_t tensor : order) {
            const std::uint64_t bytes = aligned(tensors_[tensor]);
            for (std::uint32_t b = 0;; ++b) {
                if (b == blocks.size()) {
                    blocks.emplace_back(program_.operations().size());
                    plan_.block_bytes.push_back(0);
                }
                const auto offset = blocks[b].place(uses_[tensor], bytes, block_limit_);
                if (!offset) continue;
                plan_.places[tensor] = {first_block + b, *offset};
                std::uint64_t& size = plan_.block_bytes[first_block + b];
                size = std::max(size, *offset + bytes);
                break;
            }
        }
        return std::accumulate(plan_.block_bytes.begin() + first_block, plan_.block_bytes.end(),
                               std::uint64_t{0});
    }

    std::uint64_t aligned(const Program::TensorInfo& tensor) const {
        return align_up(tensor.bytes, limits_.alignment);
    }
    bool is_streamed(const Program::TensorInfo& tensor) const {
        return tensor.group != kNoGroup && plan_.groups[tensor.group].streamed;
    }
    std::size_t kind_of(std::uint32_t group) const {
        return static_cast<std::size_t>(program_.stream_groups()[group].kind);
    }
    static bool is_weights(std::size_t kind) {
        return kind == static_cast<std::size_t>(StreamGroup::Kind::weights) ||
               kind == static_cast<std::size_t>(StreamGroup::Kind::prompt_weights);
    }

    const Program& program_;
    const Residency& residency_;
    const std::vector<Program::TensorInfo>& tensors_ = program_.tensors();
    const Limits& limits_ = program_.limits();
    std::vector<Use> uses_;
    std::uint64_t block_limit_ = 0;
    Plan plan_;
};

}  // namespace

std::vector<std::uint64_t> group_bytes(const Program& program) {
    std::vector<std::uint64_t> bytes(program.stream_groups().size(), 0);
    for (const auto& tensor : program.tensors()) {
        if (tensor.group != kNoGroup) {
            bytes[tensor.group] += align_up(tensor.bytes, program.limits().alignment);
        }
    }
    return bytes;
}

Plan make_plan(const Program& program, const Residency& residency) {
    return Planner(program, residency).make();
}

}  // namespace quantsparse::program
