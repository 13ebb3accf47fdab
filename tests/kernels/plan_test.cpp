// The memory plan and the limits of operations; no device is needed.
#include "program/plan.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <algorithm>
#include <array>
#include <cstdlib>
#include <optional>
#include <random>

#include "program/rates.hpp"
#include "program/slices.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::tests {
namespace {

using program::Binding;
using program::Lifetime;
using program::Limits;
using program::Program;
using program::StreamGroup;
using program::Tensor;

struct Empty {
    std::uint32_t nothing = 0;
};

void touch(Program& program, std::vector<Binding> bindings, const std::string& name = "touch") {
    program.dispatch(name, shaders::ShaderId::norm_rows, {1}, std::move(bindings), Empty{},
                     {1, 1, 1}, 1.0);
}

struct Life {
    int first = -1, last = -1;
    bool meets(const Life& other) const {
        return first >= 0 && other.first >= 0 && first <= other.last && other.first <= last;
    }
};

/// From an operation's first to its last use, written down anew from the list of operations;
/// persistent and constant tensors live always.
std::vector<Life> lives(const Program& program) {
    const int operations = static_cast<int>(program.operations().size());
    std::vector<Life> result(program.tensors().size());
    for (std::size_t t = 0; t < result.size(); ++t) {
        if (program.tensors()[t].lifetime != Lifetime::transient) result[t] = {0, operations};
    }
    for (int i = 0; i < operations; ++i) {
        for (const Binding& b : program.operations()[static_cast<std::size_t>(i)].bindings) {
            Life& life = result[b.tensor.id];
            if ((!b.reads && !b.writes) ||
                program.tensors()[b.tensor.id].lifetime != Lifetime::transient) {
                continue;
            }
            if (life.first < 0) life.first = i;
            life.last = i;
        }
    }
    return result;
}

/// Groups of one slot are never in it at once.
bool take_turns(const program::Plan& plan, std::uint32_t a, std::uint32_t b) {
    return a != b && a != program::kNoGroup && b != program::kNoGroup && plan.groups[a].streamed &&
           plan.groups[b].streamed && plan.groups[a].slot == plan.groups[b].slot;
}

void expect_sound(const Program& program, const program::Plan& plan, const std::string& what) {
    const auto& tensors = program.tensors();
    const auto life = lives(program);
    ASSERT_EQ(plan.places.size(), tensors.size());
    std::uint64_t constants = 0;
    for (std::size_t a = 0; a < tensors.size(); ++a) {
        if (life[a].first < 0) continue;
        const auto& place = plan.places[a];
        ASSERT_LT(place.block, plan.block_bytes.size()) << what;
        EXPECT_EQ(place.offset % program.limits().alignment, 0u) << what;
        EXPECT_LE(place.offset + tensors[a].bytes, plan.block_bytes[place.block]) << what;
        if (tensors[a].lifetime == Lifetime::constant) constants += tensors[a].bytes;
        for (std::size_t b = 0; b < a; ++b) {
            const auto& other = plan.places[b];
            if (!life[a].meets(life[b]) || place.block != other.block) continue;
            if (take_turns(plan, tensors[a].group, tensors[b].group)) continue;
            EXPECT_TRUE(place.offset + tensors[a].bytes <= other.offset ||
                        other.offset + tensors[b].bytes <= place.offset)
                << what << ": " << tensors[a].name << " and " << tensors[b].name << " overlap";
        }
    }
    for (std::size_t a = 0; a < plan.groups.size(); ++a) {
        const auto& group = plan.groups[a];
        if (!group.streamed) continue;
        EXPECT_LE(group.host.offset + group.bytes, plan.host_block_bytes.at(group.host.block))
            << what;
        for (std::size_t b = 0; b < a; ++b) {
            const auto& other = plan.groups[b];
            if (!other.streamed || group.host.block != other.host.block) continue;
            EXPECT_TRUE(group.host.offset + group.bytes <= other.host.offset ||
                        other.host.offset + other.bytes <= group.host.offset)
                << what << ": groups " << a << " and " << b << " overlap in host memory";
        }
    }
    std::uint64_t blocks = 0;
    for (const std::uint64_t bytes : plan.block_bytes) {
        EXPECT_LE(bytes, program.limits().max_block_bytes) << what;
        blocks += bytes;
    }
    if (plan.slots == 0) {
        EXPECT_GE(plan.constant_bytes, constants) << what;
    }
    EXPECT_EQ(plan.constant_bytes + plan.working_bytes, blocks) << what;
}

TEST(Plan, TensorsThatLiveTogetherNeverOverlap) {
    const char* wanted = std::getenv("QUANTSPARSE_TEST_SEED");
    const std::uint32_t seed = wanted ? static_cast<std::uint32_t>(std::strtoul(wanted, nullptr, 0))
                                      : std::random_device{}();
    fmt::print("seed {} (QUANTSPARSE_TEST_SEED={} repeats this)\n", seed, seed);
    std::mt19937 generator(seed);
    const auto pick = [&](int lowest, int highest) {
        return std::uniform_int_distribution<int>(lowest, highest)(generator);
    };
    for (int repeat = 0; repeat < 200; ++repeat) {
        Limits limits;
        limits.max_block_bytes = 1u << pick(17, 24);
        limits.alignment = pick(0, 1) ? 256 : 4096;
        Program program(limits);
        const int tensors = pick(1, 60), phases = pick(1, 3);
        for (int t = 0; t < tensors; ++t) {
            std::optional<Program::Grouping> grouping;
            if (pick(0, 2) == 0) {
                const auto kind = static_cast<StreamGroup::Kind>(pick(0, 3));
                grouping.emplace(program, StreamGroup{kind, fmt::format("group {}", t)});
            }
            const int kind = pick(0, 9);
            program.add(fmt::format("t{}", t), static_cast<std::uint64_t>(pick(1, 100000)),
                        kind == 0   ? Lifetime::constant
                        : kind == 1 ? Lifetime::persistent
                                    : Lifetime::transient);
        }
        // A transient tensor belongs to one phase: t % phases.
        for (int p = 0; p < phases; ++p) {
            program.begin_phase(fmt::format("phase {}", p));
            for (int i = pick(1, 40); i > 0; --i) {
                std::vector<Binding> bindings;
                for (int b = pick(1, 5); b > 0; --b) {
                    const std::uint32_t t = static_cast<std::uint32_t>(pick(0, tensors - 1));
                    if (program.tensors()[t].lifetime == Lifetime::transient &&
                        static_cast<int>(t) % phases != p) {
                        continue;
                    }
                    const int mode = pick(0, 3);
                    bindings.push_back(mode == 0   ? program::read({t})
                                       : mode == 1 ? program::write({t})
                                       : mode == 2 ? program::read_write({t})
                                                   : program::unused({t}));
                }
                touch(program, std::move(bindings));
            }
        }
        expect_sound(program, program::make_plan(program), fmt::format("program {}", repeat));
        program::Residency residency;
        for (std::size_t g = 0; g < program.stream_groups().size(); ++g) {
            residency.streamed.push_back(pick(0, 2) > 0);
        }
        expect_sound(program, program::make_plan(program, residency),
                     fmt::format("program {}, streamed", repeat));
    }
}

/// Layers of weights (2 MiB each), residuals (1 MiB) and an activation of 1 MiB.
Program layered(int layers) {
    constexpr std::uint64_t kMiB = 1 << 20;
    Program program((Limits()));
    const Tensor x = program.add("x", kMiB, Lifetime::persistent);
    std::vector<Tensor> weights, residuals;
    for (int i = 0; i < layers; ++i) {
        {
            const Program::Grouping grouping(program,
                                             {StreamGroup::Kind::weights, fmt::format("{}", i)});
            weights.push_back(program.add("w", 2 * kMiB, Lifetime::constant));
        }
        const Program::Grouping grouping(program,
                                         {StreamGroup::Kind::residuals, fmt::format("{}", i)});
        residuals.push_back(program.add("d", kMiB, Lifetime::persistent));
    }
    for (int phase = 0; phase < 2; ++phase) {
        program.begin_phase(fmt::format("{}", phase));
        for (std::size_t i = 0; i < weights.size(); ++i) {
            touch(program, {program::read(weights[i]), program::read_write(x)});
            touch(program, {program::read_write(residuals[i]), program::read(x)});
        }
    }
    return program;
}

TEST(Residency, StreamsNoMoreThanTheBudgetAsks) {
    constexpr std::uint64_t kMiB = 1 << 20;
    const Program program = layered(10);
    const auto streamed = [&](const program::Residency& residency, StreamGroup::Kind kind) {
        int count = 0;
        for (std::uint32_t g = 0; g < program.stream_groups().size(); ++g) {
            count += residency.streams(g) && program.stream_groups()[g].kind == kind;
        }
        return count;
    };
    struct Case {
        std::uint64_t budget;
        int weights, residuals;
        std::uint64_t total;
    };
    // 31 MiB in all; two slots replace what is streamed, residuals go first.
    for (const Case& c : {Case{0, 0, 0, 31},
                          {31, 0, 0, 31},
                          {30, 0, 3, 30},
                          {25, 0, 8, 25},
                          {23, 0, 10, 23},
                          {22, 3, 10, 21},
                          {7, 10, 10, 7},
                          {1, 10, 10, 7}}) {
        const auto residency = program::choose_residency(program, c.budget * kMiB);
        EXPECT_EQ(streamed(residency, StreamGroup::Kind::weights), c.weights) << c.budget;
        EXPECT_EQ(streamed(residency, StreamGroup::Kind::residuals), c.residuals) << c.budget;
        const auto plan = program::make_plan(program, residency);
        EXPECT_EQ(plan.constant_bytes + plan.working_bytes, c.total * kMiB) << c.budget;
        expect_sound(program, plan, fmt::format("{} MiB", c.budget));
    }
}

TEST(Residency, ConsecutiveGroupsHaveDifferentSlots) {
    const Program program = layered(7);
    for (const std::uint64_t budget : {1ull, 10ull << 20, 14ull << 20}) {
        const auto plan = program::make_plan(program, program::choose_residency(program, budget));
        std::array<std::uint32_t, program::kStreamKinds> before;
        before.fill(program::kNoGroup);
        std::uint32_t phase = 0;
        for (const auto& operation : program.operations()) {
            if (operation.phase != phase) before.fill(program::kNoGroup);
            phase = operation.phase;
            for (const Binding& binding : operation.bindings) {
                const std::uint32_t group = program.tensors()[binding.tensor.id].group;
                if (group == program::kNoGroup || !plan.groups[group].streamed) continue;
                auto& last = before[static_cast<std::size_t>(program.stream_groups()[group].kind)];
                if (last != program::kNoGroup) {
                    EXPECT_NE(plan.groups[last].slot, plan.groups[group].slot) << budget;
                }
                last = group;
            }
        }
        EXPECT_LE(plan.slots, 4u);
    }
}

TEST(Plan, AChainNeedsTwoTensorsAtATime) {
    Program program((Limits()));
    constexpr std::uint64_t kBytes = 1 << 20;
    Tensor before = program.add("x0", kBytes);
    touch(program, {program::write(before)});
    for (int i = 1; i < 20; ++i) {
        const Tensor next = program.add(fmt::format("x{}", i), kBytes);
        touch(program, {program::read(before), program::write(next)});
        before = next;
    }
    EXPECT_EQ(program::make_plan(program).working_bytes, 2 * kBytes);
}

TEST(Plan, ATensorLargerThanOneAllocationIsRefused) {
    Limits limits;
    limits.max_block_bytes = 1 << 20;
    Program program(limits);
    program.add("fits", 1 << 20, Lifetime::persistent);
    EXPECT_NO_THROW(program::make_plan(program));
    program.add("giant", (1 << 20) + 1, Lifetime::persistent);
    try {
        program::make_plan(program);
        FAIL() << "the tensor exceeds the allocation limit";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::out_of_memory);
        EXPECT_NE(std::string(error.what()).find("giant"), std::string::npos) << error.what();
    }
}

TEST(Plan, ABindingOverTheLimitIsRefused) {
    Limits limits;
    limits.max_binding_bytes = 64 << 10;
    Program program(limits);
    const Tensor large = program.add("large", 1 << 20);
    touch(program, {program::read(large, 64 << 10, 64 << 10)});
    touch(program, {program::unused(large)});
    EXPECT_EQ(program::make_plan(program).largest_binding_bytes, std::uint64_t{64} << 10);
    try {
        touch(program, {program::write(large, 0, (64 << 10) + 16)}, "greedy");
        FAIL() << "the binding exceeds the limit";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::unsupported);
        EXPECT_NE(std::string(error.what()).find("greedy"), std::string::npos) << error.what();
    }
    EXPECT_THROW(touch(program, {program::read(large)}), Error);
}

TEST(Plan, BindingsOutsideTheTensorOrUnalignedAreRefused) {
    Program program((Limits()));
    const Tensor t = program.add("t", 4096);
    EXPECT_NO_THROW(touch(program, {program::read(t, 3840, 256)}));
    EXPECT_THROW(touch(program, {program::read(t, 4096, 16)}), Error);
    EXPECT_THROW(touch(program, {program::read(t, 3840, 512)}), Error);
    EXPECT_THROW(touch(program, {program::read(t, 128, 256)}), Error);
}

TEST(Plan, TooManyWorkGroupsAreRefused) {
    Program program((Limits()));
    const Tensor t = program.add("t", 16);
    const auto dispatch = [&](std::uint32_t groups) {
        program.dispatch("wide", shaders::ShaderId::norm_rows, {1}, {program::write(t)}, Empty{},
                         {groups, 1, 1}, 1.0);
    };
    dispatch(65535);
    dispatch(0);  // nothing to do: not an operation
    EXPECT_EQ(program.operations().size(), 1u);
    EXPECT_THROW(dispatch(65536), Error);
}

TEST(Slices, EveryWorkGroupRunsOnceAndNoSliceIsLonger) {
    std::mt19937 generator(5);
    const auto pick = [&](std::uint32_t lowest, std::uint32_t highest) {
        return std::uniform_int_distribution<std::uint32_t>(lowest, highest)(generator);
    };
    for (int repeat = 0; repeat < 300; ++repeat) {
        program::Operation operation;
        operation.groups = {pick(1, 20), pick(1, 20), pick(1, 4)};
        constexpr program::Cuts kCuts[] = {program::kCutAnywhere,
                                           {true, false, true},
                                           {true, true, false},
                                           {false, true, true},
                                           {false, false, false}};
        operation.cuts = kCuts[repeat % 5];
        const auto& g = operation.groups;
        const double seconds = pick(1, 400) * 0.01;
        std::vector<int> runs(g[0] * g[1] * g[2], 0);
        // A single row of the smallest axis is never cut: it may be longer than the budget.
        const auto& cuttable = operation.cuts;
        std::array<std::uint32_t, 3> sorted = g;
        for (std::size_t axis = 0; axis < 3; ++axis) {
            if (!cuttable[axis]) sorted[axis] = 1;
        }
        std::sort(sorted.begin(), sorted.end());
        const double smallest = seconds / (sorted[2] * sorted[1]);
        program::Cursor cursor;
        while (cursor.operation == 0) {
            const double budget = pick(1, 30) * 0.01;
            program::Cursor before = cursor;
            const auto held_back = program::take_slice(operation, seconds, budget, false, before);
            const auto slice = program::take_slice(operation, seconds, budget, true, cursor);
            ASSERT_TRUE(slice);
            // Behind other work only what ends the operation within the budget.
            EXPECT_EQ(held_back.has_value(), cursor.operation == 1 &&
                                                 slice->share * seconds <= budget + 1e-9 &&
                                                 before.operation == 1);
            for (std::size_t axis = 0; axis < 3; ++axis) {
                if (cuttable[axis]) continue;
                EXPECT_EQ(slice->count[axis], g[axis]);
            }
            EXPECT_LE(slice->share * seconds, std::max(budget, smallest) + 1e-9);
            for (std::uint32_t z = 0; z < slice->count[2]; ++z) {
                for (std::uint32_t y = 0; y < slice->count[1]; ++y) {
                    for (std::uint32_t x = 0; x < slice->count[0]; ++x) {
                        const std::uint32_t cell =
                            ((slice->first[2] + z) * g[1] + slice->first[1] + y) * g[0] +
                            slice->first[0] + x;
                        ++runs.at(cell);
                    }
                }
            }
        }
        EXPECT_EQ(std::count(runs.begin(), runs.end(), 1), static_cast<long>(runs.size()));
    }
}

TEST(Slices, KernelsThatReadTheGroupCountSayWhereTheyMayBeCut) {
    using shaders::ShaderId;
    EXPECT_TRUE(program::reads_group_count(ShaderId::elementwise));
    EXPECT_FALSE(program::reads_group_count(ShaderId::norm_rows));
    Program program(Limits{});
    const Tensor t = program.add("t", 16);
    const auto dispatch = [&](ShaderId shader, std::optional<program::Cuts> cuts) {
        program.dispatch("any", shader, {1}, {program::write(t)}, Empty{}, {2, 3, 1}, 1.0, cuts);
        return program.operations().back().cuts;
    };
    EXPECT_EQ(dispatch(ShaderId::norm_rows, {}), program::kCutAnywhere);
    EXPECT_EQ(dispatch(ShaderId::elementwise, program::Cuts{false, true, true}),
              (program::Cuts{false, true, true}));
    EXPECT_THROW(dispatch(ShaderId::elementwise, {}), Error);
}

TEST(Rates, SlowUntilMeasuredThenAsTheLastLongSubmissions) {
    program::Rates rates(1e6);
    program::Operation fast, slow;
    fast.name = "fast";
    slow.name = "slow";
    const auto a = rates.kind_of(fast), b = rates.kind_of(slow);
    EXPECT_NE(a, b);
    EXPECT_EQ(rates.kind_of(fast), a);
    EXPECT_DOUBLE_EQ(rates.seconds(a, 2e6), 2.0);
    const program::Rates::Part one[] = {{a, 1e6}};
    rates.learn(one, 0.1);
    EXPECT_DOUBLE_EQ(rates.seconds(a, 1e6), 0.1);
    // A shared submission is divided as expected: 0.1 and 1 of 1.1 seconds.
    const program::Rates::Part both[] = {{a, 1e6}, {b, 1e6}};
    rates.learn(both, 1.1);
    EXPECT_NEAR(rates.seconds(a, 1e6), 0.1, 1e-12);
    EXPECT_NEAR(rates.seconds(b, 1e6), 1.0, 1e-12);
    // Submissions of twice as much work are trusted, of a hundred times as much are not.
    EXPECT_GE(rates.trusted_seconds(a), rates.seconds(a, 2e6));
    EXPECT_LE(rates.trusted_seconds(a), rates.seconds(a, 1e8));
    // The device got ten times slower.
    for (int i = 0; i < 10; ++i) rates.learn(one, 1.0);
    EXPECT_NEAR(rates.seconds(a, 1e6), 1.0, 0.01);
}

}  // namespace
}  // namespace quantsparse::tests
