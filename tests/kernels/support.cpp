#include "support.hpp"

#include <fmt/format.h>
#include <cmath>
#include <cstdlib>
#include <map>
#include <memory>

#include "format/safetensors.hpp"
#include "pipeline/stage.hpp"
#include "quantsparse/error.hpp"
#include "quantsparse/names.hpp"

namespace quantsparse::tests {
namespace {

std::unique_ptr<Device> open(Arithmetic arithmetic) {
    DeviceOptions options;
    options.arithmetic = arithmetic;
    // The layers that are packaged today reject the kernels for matrix units.
    options.validation = arithmetic != Arithmetic::matrix;
    options.on_validation_message = [](const std::string& text) {
        fmt::print(stderr, "vulkan validation: {}\n", text);
    };
    try {
        return std::make_unique<Device>(options);
    } catch (const Error& error) {
        if (error.code() != ErrorCode::unsupported) throw;
        options.validation = false;  // the layer is not installed
        return std::make_unique<Device>(options);
    }
}

std::map<Arithmetic, std::unique_ptr<Device>>& devices() {
    static std::map<Arithmetic, std::unique_ptr<Device>> opened;
    return opened;
}

/// Closes the devices before the process ends: the loader and its layers may be gone by the time
/// static objects are destroyed.
class CloseDevices : public testing::Environment {
  public:
    void TearDown() override { devices().clear(); }
};
const testing::Environment* const kCloseDevices =
    testing::AddGlobalTestEnvironment(new CloseDevices);

int messages() {
    int count = 0;
    for (const auto& [arithmetic, opened] : devices()) count += opened->validation_message_count();
    return count;
}

}  // namespace

void DeviceTest::SetUp() {
    const char* wanted = std::getenv("QUANTSPARSE_TEST_SEED");
    const std::uint32_t seed = wanted ? static_cast<std::uint32_t>(std::strtoul(wanted, nullptr, 0))
                                      : std::random_device{}();
    fmt::print("seed {} (QUANTSPARSE_TEST_SEED={} repeats this)\n", seed, seed);
    generator_.seed(seed);
}

void DeviceTest::TearDown() {
    EXPECT_EQ(messages(), 0) << "validation messages, see above";
}

Arithmetic DeviceTest::usual() {
    const char* wanted = std::getenv("QUANTSPARSE_TEST_ARITHMETIC");
    return wanted ? value_of<Arithmetic>(wanted) : Arithmetic::portable;
}

bool DeviceTest::has_matrix_units() {
    return device().info().matrix_int8.m > 0;
}

double DeviceTest::attention_tolerance(double fp32, double spread) {
    return usual() == Arithmetic::matrix ? std::max(fp32, 2e-3 * std::max(1.0, spread)) : fp32;
}

Device& DeviceTest::device(Arithmetic arithmetic) {
    auto& slot = devices()[arithmetic];
    if (!slot) slot = open(arithmetic);
    return *slot;
}

bool DeviceTest::has_dot() {
    return device().info().integer_dot_product;
}

program::Limits DeviceTest::limits(Arithmetic arithmetic) {
    program::Limits limits = pipeline::device_limits(device(arithmetic).internal());
    if (std::getenv("QUANTSPARSE_TEST_GPU_SHAPES")) {
        limits.runs_on_cpu = false;
        limits.texel_bytes = 0;
    }
    return limits;
}

Executor DeviceTest::executor_for(const Program& program) {
    return Executor(device(program.limits().arithmetic).internal(), program);
}

std::vector<float> DeviceTest::random(std::size_t count) {
    std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
    std::vector<float> values(count);
    for (float& value : values) value = uniform(generator_);
    return values;
}

std::vector<float> DeviceTest::random(int rows, int columns) {
    return random(static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns));
}

int DeviceTest::random_int(int lowest, int highest) {
    return std::uniform_int_distribution<int>(lowest, highest)(generator_);
}

Matrix add_kept_matrix(Program& program, const std::string& name, int rows, int columns) {
    return kernels::add_matrix(program, name, rows, columns, Lifetime::persistent);
}

void write_tensor(Executor& executor, Tensor tensor, std::vector<float> values) {
    values.resize(executor.program().bytes_of(tensor) / 4, 0.0f);
    executor.write_values(tensor, std::span<const float>(values));
}

void write_matrix(Executor& executor, const Matrix& matrix, std::span<const float> values) {
    std::vector<float> padded(
        static_cast<std::size_t>(matrix.rows) * static_cast<std::size_t>(matrix.stride), 0.0f);
    for (int r = 0; r < matrix.rows; ++r) {
        for (int c = 0; c < matrix.columns; ++c) {
            padded[at(r, c, matrix.stride)] = values[at(r, c, matrix.columns)];
        }
    }
    executor.write_values(matrix.tensor, std::span<const float>(padded));
}

bool padding_is_zero(const Executor& executor, const Matrix& m) {
    const auto padded = executor.read_values<float>(
        m.tensor, static_cast<std::size_t>(m.rows) * static_cast<std::size_t>(m.stride));
    for (int r = 0; r < m.rows; ++r) {
        for (int c = m.columns; c < m.stride; ++c) {
            if (padded[at(r, c, m.stride)] != 0.0f) return false;
        }
    }
    return true;
}

void write_weight(Executor& executor, const kernels::FloatWeight& weight,
                  std::span<const float> values, std::span<const float> bias) {
    for (const auto& panel : weight.panels) {
        const int columns = kernels::round_up(panel.columns, 4);
        std::vector<float> transposed(
            static_cast<std::size_t>(weight.k) * static_cast<std::size_t>(columns), 0.0f);
        for (int c = 0; c < panel.columns; ++c) {
            for (int i = 0; i < weight.k; ++i) {
                transposed[at(i, c, columns)] = values[at(panel.first_column + c, i, weight.k)];
            }
        }
        if (weight.half) {
            std::vector<std::uint16_t> halves;
            for (const float value : transposed) halves.push_back(format::half_from_float(value));
            executor.write_values(panel.tensor, std::span<const std::uint16_t>(halves));
        } else {
            executor.write_values(panel.tensor, std::span<const float>(transposed));
        }
    }
    if (weight.bias.valid()) write_tensor(executor, weight.bias, {bias.begin(), bias.end()});
}

std::vector<float> through_half(std::vector<float> values) {
    for (float& value : values) value = format::float_from_half(format::half_from_float(value));
    return values;
}

void expect_close(std::span<const float> actual, std::span<const double> expected,
                  std::span<const double> tolerance, const std::string& what) {
    ASSERT_EQ(actual.size(), expected.size()) << what;
    for (std::size_t i = 0; i < actual.size(); ++i) {
        const double allowed = tolerance[tolerance.size() == 1 ? 0 : i];
        if (!(std::abs(actual[i] - expected[i]) <= allowed)) {
            ADD_FAILURE() << fmt::format("{}: element {} of {} is {}, expected {} +- {}", what, i,
                                         actual.size(), actual[i], expected[i], allowed);
            return;
        }
    }
}

void expect_close(std::span<const float> actual, std::span<const double> expected, double tolerance,
                  const std::string& what) {
    expect_close(actual, expected, std::span<const double>(&tolerance, 1), what);
}

}  // namespace quantsparse::tests
