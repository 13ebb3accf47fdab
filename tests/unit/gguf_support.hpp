// GGUF files for tests, made by hand: bytes in the order of gguf fact 45.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace quantsparse::format::test {

template <typename T>
std::string little_endian(T value) {
    std::string bytes(sizeof value, '\0');
    std::memcpy(bytes.data(), &value, sizeof value);
    return bytes;
}

inline std::string gguf_text(std::string_view text) {
    return little_endian<std::uint64_t>(text.size()) + std::string(text);
}

class GgufBuilder {
  public:
    enum Value : std::uint32_t {
        u8 = 0,
        u32 = 4,
        i32 = 5,
        f32 = 6,
        boolean = 7,
        text = 8,
        u64 = 10
    };

    GgufBuilder& value(std::string_view key, std::uint32_t type, const std::string& bytes) {
        values_ += gguf_text(key) + little_endian(type) + bytes;
        ++value_count_;
        return *this;
    }
    GgufBuilder& string(std::string_view key, std::string_view value_text) {
        return value(key, text, gguf_text(value_text));
    }
    GgufBuilder& number(std::string_view key, std::uint32_t n) {
        return value(key, u32, little_endian(n));
    }
    GgufBuilder& flag(std::string_view key, bool on) {
        return value(key, boolean, std::string(1, on ? '\1' : '\0'));
    }
    GgufBuilder& array(std::string_view key, std::uint32_t type, std::uint64_t count,
                       const std::string& elements) {
        return value(key, 9, little_endian(type) + little_endian(count) + elements);
    }
    GgufBuilder& strings(std::string_view key, const std::vector<std::string>& elements) {
        std::string bytes;
        for (const auto& element : elements) {
            bytes += gguf_text(element);
        }
        return array(key, text, elements.size(), bytes);
    }
    template <typename T>
    GgufBuilder& numbers(std::string_view key, std::uint32_t type, const std::vector<T>& elements) {
        std::string bytes;
        for (const T element : elements) {
            bytes += little_endian(element);
        }
        return array(key, type, elements.size(), bytes);
    }
    /// `extents` as the file has them: fastest first.
    GgufBuilder& tensor(std::string_view name, const std::vector<std::uint64_t>& extents,
                        std::uint32_t type, const std::string& data) {
        return tensor_at(name, extents, type, data_.size(), data);
    }
    /// At an offset that need not be where its data comes to lie.
    GgufBuilder& tensor_at(std::string_view name, const std::vector<std::uint64_t>& extents,
                           std::uint32_t type, std::uint64_t offset, const std::string& data) {
        tensors_ += gguf_text(name) +
                    little_endian<std::uint32_t>(static_cast<std::uint32_t>(extents.size()));
        for (const auto extent : extents) {
            tensors_ += little_endian(extent);
        }
        tensors_ += little_endian(type) + little_endian(offset);
        data_ += data;
        pad(data_);
        ++tensor_count_;
        return *this;
    }
    GgufBuilder& alignment(std::uint32_t bytes) {
        alignment_ = bytes;
        return *this;
    }
    std::string bytes(std::uint32_t version = 3) const {
        std::string head = "GGUF" + little_endian(version) + little_endian(tensor_count_) +
                           little_endian(value_count_) + values_ + tensors_;
        pad(head);
        return head + data_;
    }

  private:
    void pad(std::string& text_bytes) const {
        text_bytes.resize((text_bytes.size() + alignment_ - 1) / alignment_ * alignment_);
    }

    std::size_t alignment_ = 32;
    std::uint64_t tensor_count_ = 0, value_count_ = 0;
    std::string values_, tensors_, data_;
};

/// Bytes of F32 values.
inline std::string float_bytes(const std::vector<float>& values) {
    std::string bytes;
    for (const float value : values) {
        bytes += little_endian(value);
    }
    return bytes;
}

}  // namespace quantsparse::format::test
