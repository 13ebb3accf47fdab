// Files for the tests of runtime/format, made by hand so that every byte is the test's own choice,
// and a whole random model small enough to run in milliseconds.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "format/networks/registry.hpp"
#include "format/networks/umt5.hpp"
#include "format/networks/wan_dit.hpp"
#include "format/networks/wan_vae.hpp"
#include "format/safetensors.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::format::test {

/// A folder of the test's own, removed afterwards.
class TemporaryFolder {
  public:
    TemporaryFolder() {
        static int counter = 0;
        path_ =
            std::filesystem::temp_directory_path() /
            ("quantsparse-test-" + std::to_string(::getpid()) + "-" + std::to_string(counter++));
        std::filesystem::create_directories(path_);
    }
    ~TemporaryFolder() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;
    const std::filesystem::path& path() const { return path_; }
    std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

  private:
    std::filesystem::path path_;
};

inline void write_text(const std::filesystem::path& path, const std::string& text) {
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
}

/// 8 bytes of header length, header, data.
inline std::string safetensors_bytes(const std::string& header, const std::string& data,
                                     std::uint64_t length_to_claim) {
    std::string bytes;
    for (int i = 0; i < 8; ++i) {
        bytes += static_cast<char>(length_to_claim >> (8 * i) & 0xFF);
    }
    return bytes + header + data;
}
inline std::string safetensors_bytes(const std::string& header, const std::string& data) {
    return safetensors_bytes(header, data, header.size());
}

/// Runs `action`, which must throw an Error of the code whose one line contains all the pieces.
inline void expect_error(ErrorCode code, const std::vector<std::string>& pieces,
                         const std::function<void()>& action) {
    try {
        action();
        ADD_FAILURE() << "no error was thrown";
    } catch (const Error& error) {
        const std::string message = error.what();
        EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << message;
        EXPECT_EQ(message.find('\n'), std::string::npos) << message;
        for (const auto& piece : pieces) {
            EXPECT_NE(message.find(piece), std::string::npos)
                << "'" << piece << "' is not in: " << message;
        }
    }
}

/// The reference cases: $QUANTSPARSE_GOLDEN, else tests/golden/data, else empty.
inline std::filesystem::path golden_root() {
    if (const char* root = std::getenv("QUANTSPARSE_GOLDEN")) {
        return root;
    }
    const std::filesystem::path copy = QUANTSPARSE_TEST_ROOT "/tests/golden/data";
    return std::filesystem::exists(copy / "wan-dit-plain") ? copy : std::filesystem::path();
}

template <typename T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
    return std::as_bytes(std::span<const T>(values));
}

/// Small deterministic numbers: not random enough for statistics, enough to tell tensors apart.
inline std::vector<float> test_values(std::size_t count, std::uint32_t seed, float amplitude) {
    std::vector<float> values(count);
    std::uint32_t state = seed * 2654435761U + 12345U;
    for (auto& value : values) {
        state = state * 1664525U + 1013904223U;
        value = amplitude * (static_cast<float>(state >> 8) / 8388608.0f - 1.0f);
    }
    return values;
}

/// Writes the tensors in F32 with values of the size trained networks have.
inline void write_network(const std::filesystem::path& path,
                          const std::vector<TensorSpec>& tensors) {
    std::filesystem::create_directories(path.parent_path());
    SafetensorsWriter writer(path);
    for (const auto& tensor : tensors) {
        writer.declare(tensor.name, DType::f32, tensor.shape);
    }
    std::uint32_t seed = 1;
    for (const auto& tensor : tensors) {
        std::size_t count = 1;
        for (const auto dimension : tensor.shape) {
            count *= static_cast<std::size_t>(dimension);
        }
        const std::size_t fan_in = count / static_cast<std::size_t>(tensor.shape.front());
        const bool gain =
            tensor.name.ends_with("gamma") ||
            (tensor.name.find("norm") != std::string::npos && tensor.name.ends_with(".weight"));
        auto values =
            test_values(count, seed++, gain ? 0.1f : std::sqrt(3.0f / static_cast<float>(fan_in)));
        for (auto& value : values) {
            value += gain ? 1.0f : 0.0f;
        }
        writer.write(tensor.name, bytes_of(values));
    }
    writer.finish();
}

/// A network's configuration in upstream's spelling.
inline nlohmann::json config_of(const Network& network) {
    return network_kind(network.kind).config_json(network);
}

/// The configurations of the random model below.
struct TinyModel {
    WanDitConfig transformer;
    Umt5Config text_encoder;
    WanVaeConfig vae;

    TinyModel() {
        transformer.dim = 64;
        transformer.ffn_dim = 160;
        transformer.num_heads = 2;
        transformer.num_layers = 2;
        transformer.text_dim = 32;
        transformer.text_len = 16;
        transformer.freq_dim = 32;
        text_encoder.vocab_size = 72;
        text_encoder.dim = 32;
        text_encoder.dim_attn = 32;
        text_encoder.dim_ffn = 48;
        text_encoder.num_heads = 2;
        text_encoder.num_layers = 1;
        text_encoder.text_len = 16;
        vae.dim = 4;
        set_released_latent_statistics(vae);
    }

    Network transformer_network() const { return describe_wan_dit(transformer); }
    Network text_encoder_network() const { return describe_umt5(text_encoder); }
    Network vae_network() const { return describe_wan_vae(vae, true); }

    /// A diffusers folder; `tokenizer` is whatever bytes the test wants there.
    void write_diffusers_folder(const std::filesystem::path& folder,
                                const std::string& tokenizer = "\x01 no real tokenizer") const {
        write_text(folder / "model_index.json",
                   R"({"_class_name": "WanPipeline", "native_width": 64, "native_height": 48,)"
                   R"( "native_frames": 9, "steps": 8, "guidance_scale": 4.0, "fps": 8})");
        write_text(folder / "scheduler" / "scheduler_config.json", R"({"flow_shift": 3.0})");
        write_text(folder / "transformer" / "config.json", config_of(transformer_network()).dump());
        write_text(folder / "text_encoder" / "config.json",
                   config_of(text_encoder_network()).dump());
        write_text(folder / "vae" / "config.json", config_of(vae_network()).dump());
        write_text(folder / "tokenizer" / "spiece.model", tokenizer);
        write_network(folder / "transformer" / "diffusion_pytorch_model.safetensors",
                      transformer_network().tensors);
        write_network(folder / "text_encoder" / "model.safetensors",
                      text_encoder_network().tensors);
        write_network(folder / "vae" / "diffusion_pytorch_model.safetensors",
                      vae_network().tensors);
    }
};

}  // namespace quantsparse::format::test
