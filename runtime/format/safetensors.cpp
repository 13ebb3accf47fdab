#include "format/safetensors.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "format/file_kind.hpp"
#include "format/mapped_file.hpp"
#include "format/text.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::format {
namespace {

using nlohmann::json;

// The limit of the published format; a header of a released 14B model has about 100 KB.
constexpr std::uint64_t kLargestHeader = 100'000'000;
// Root object, tensor object, shape array: nothing legitimate nests deeper.
constexpr int kDeepestNesting = 4;

[[noreturn]] void reject(const std::filesystem::path& path, const std::string& what) {
    throw Error(ErrorCode::bad_file,
                fmt::format("'{}' is not a usable safetensors file: {}", path.string(), what));
}

/// Parses the header and refuses what nlohmann would silently accept: repeated keys (the last one
/// would win) and nesting made to exhaust memory.
json parse_header(std::string_view text, const std::filesystem::path& path) {
    std::vector<std::set<std::string>> keys(kDeepestNesting + 2);
    const json::parser_callback_t check = [&](int depth, json::parse_event_t event, json& value) {
        if (depth > kDeepestNesting) {
            reject(path, "the header nests too deeply");
        }
        if (event == json::parse_event_t::object_start) {
            keys[static_cast<std::size_t>(depth) + 1].clear();
        } else if (event == json::parse_event_t::key) {
            const auto& key = value.get_ref<const std::string&>();
            if (!keys[static_cast<std::size_t>(depth)].insert(key).second) {
                reject(path, fmt::format("the header names '{}' twice", printable(key)));
            }
        }
        return true;
    };
    try {
        return json::parse(text.begin(), text.end(), check);
    } catch (const json::exception&) {
        reject(path, "the header is not valid JSON; the file is damaged");
    }
}

/// A count, byte offset or dimension: a JSON integer that fits a signed 64-bit number.
std::int64_t unsigned_number(const json& value, const std::filesystem::path& path,
                             const std::string& tensor, const char* what) {
    const bool fits = value.is_number_unsigned() &&
                      value.get<std::uint64_t>() <=
                          static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    if (!fits) {
        reject(path, fmt::format("tensor '{}' has a {} that is no non-negative integer",
                                 printable(tensor), what));
    }
    return static_cast<std::int64_t>(value.get<std::uint64_t>());
}

DType dtype_from(const std::string& text) {
    for (const DType dtype :
         {DType::f64, DType::f32, DType::f16, DType::bf16, DType::f8_e4m3, DType::f8_e5m2,
          DType::i64, DType::i32, DType::i16, DType::i8, DType::u8, DType::u32, DType::boolean}) {
        if (text == name_of(dtype)) {
            return dtype;
        }
    }
    return DType::other;
}

struct Range {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    const std::string* name = nullptr;
};

}  // namespace

struct SafetensorsFile::Impl {
    explicit Impl(const std::filesystem::path& file_path) : path(file_path), file(file_path) {}

    void read_header();
    void read_tensor(const std::string& name, const json& entry, std::span<const std::byte> data);
    void check_overlaps() const;

    std::filesystem::path path;
    MappedFile file;
    std::map<std::string, std::string> metadata;
    std::map<std::string, TensorView, std::less<>> tensors;
    std::vector<Range> ranges;
};

void SafetensorsFile::Impl::read_header() {
    const auto bytes = file.bytes();
    const bool plausible = bytes.size() > 8 && bytes[8] == std::byte{'{'};
    if (const auto what = plausible ? std::string() : what_it_is(bytes); !what.empty()) {
        throw Error(ErrorCode::unsupported, fmt::format("'{}' {}", path.string(), what));
    }
    if (bytes.size() < 8) {
        reject(path,
               fmt::format("it has {} bytes, fewer than the 8 of the header length", bytes.size()));
    }
    std::uint64_t length = 0;
    for (int i = 7; i >= 0; --i) {
        length = length << 8 | std::to_integer<std::uint64_t>(bytes[static_cast<std::size_t>(i)]);
    }
    if (length > bytes.size() - 8) {
        reject(path, fmt::format("the header length {} passes the end of the file ({} bytes); it "
                                 "is truncated or of another format",
                                 length, bytes.size()));
    }
    if (length > kLargestHeader) {
        reject(path, fmt::format("the header length {} is above the format's limit of {}", length,
                                 kLargestHeader));
    }
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + 8, length);
    const json header = parse_header(text, path);
    if (!header.is_object()) {
        reject(path, "the header is not a JSON object");
    }
    const auto data = bytes.subspan(8 + length);
    for (const auto& [name, entry] : header.items()) {
        if (name != "__metadata__") {
            read_tensor(name, entry, data);
            continue;
        }
        if (!entry.is_object()) {
            reject(path, "__metadata__ is not a JSON object");
        }
        for (const auto& [key, value] : entry.items()) {
            if (!value.is_string()) {
                reject(path,
                       fmt::format("the metadata value of '{}' is not a string", printable(key)));
            }
            metadata.emplace(key, value.get<std::string>());
        }
    }
    check_overlaps();
}

void SafetensorsFile::Impl::read_tensor(const std::string& name, const json& entry,
                                        std::span<const std::byte> data) {
    const std::string shown = printable(name);
    if (!entry.is_object() || !entry.contains("dtype") || !entry["dtype"].is_string() ||
        !entry.contains("shape") || !entry["shape"].is_array() || !entry.contains("data_offsets") ||
        !entry["data_offsets"].is_array() || entry["data_offsets"].size() != 2) {
        reject(path,
               fmt::format("the entry of tensor '{}' lacks dtype, shape or data_offsets", shown));
    }
    TensorView view;
    view.name = name;
    const auto& dtype_text = entry["dtype"].get_ref<const std::string&>();
    view.dtype = dtype_from(dtype_text);
    std::int64_t byte_count = block_of(view.dtype).bytes;
    bool overflow = false;
    for (const auto& dimension : entry["shape"]) {
        view.shape.push_back(unsigned_number(dimension, path, name, "dimension"));
        overflow |= __builtin_mul_overflow(byte_count, view.shape.back(), &byte_count);
    }
    if (overflow) {
        reject(path, fmt::format("the shape {} of tensor '{}' overflows 64 bits",
                                 shape_text(view.shape), shown));
    }
    const auto begin = unsigned_number(entry["data_offsets"][0], path, name, "begin offset");
    const auto end = unsigned_number(entry["data_offsets"][1], path, name, "end offset");
    if (begin > end) {
        reject(path, fmt::format("tensor '{}' begins at {} and ends before that, at {}", shown,
                                 begin, end));
    }
    if (static_cast<std::uint64_t>(end) > data.size()) {
        reject(path, fmt::format("tensor '{}' ends at byte {} of {} data bytes; the file is "
                                 "truncated, copy or download it again",
                                 shown, end, data.size()));
    }
    if (view.dtype == DType::other) {
        byte_count = end - begin;  // of a type whose elements have a size unknown here
    } else if (end - begin != byte_count) {
        reject(path,
               fmt::format("tensor '{}' occupies {} bytes where {} {} needs {}", shown, end - begin,
                           name_of(view.dtype), shape_text(view.shape), byte_count));
    }
    view.bytes =
        data.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(byte_count));
    const auto [position, inserted] = tensors.emplace(name, std::move(view));
    if (byte_count > 0) {
        ranges.push_back(
            {static_cast<std::uint64_t>(begin), static_cast<std::uint64_t>(end), &position->first});
    }
}

void SafetensorsFile::Impl::check_overlaps() const {
    auto sorted = ranges;
    std::sort(sorted.begin(), sorted.end(),
              [](const Range& a, const Range& b) { return a.begin < b.begin; });
    for (std::size_t i = 1; i < sorted.size(); ++i) {
        if (sorted[i].begin < sorted[i - 1].end) {
            reject(path, fmt::format("tensors '{}' and '{}' overlap at data byte {}",
                                     printable(*sorted[i - 1].name), printable(*sorted[i].name),
                                     sorted[i].begin));
        }
    }
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : impl_(std::make_unique<Impl>(path)) {
    impl_->read_header();
}

SafetensorsFile::~SafetensorsFile() = default;
SafetensorsFile::SafetensorsFile(SafetensorsFile&&) noexcept = default;
SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&&) noexcept = default;

const std::filesystem::path& SafetensorsFile::path() const {
    return impl_->path;
}

const std::map<std::string, std::string>& SafetensorsFile::metadata() const {
    return impl_->metadata;
}

const std::map<std::string, TensorView, std::less<>>& SafetensorsFile::tensors() const {
    return impl_->tensors;
}

}  // namespace quantsparse::format
