#include "format/gguf.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>

#include "format/mapped_file.hpp"
#include "format/text.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::format {
namespace {

constexpr std::string_view kMagic = "GGUF";
// The largest published models have some 2,000 tensors and 60 metadata entries.
constexpr std::uint64_t kMostEntries = 1 << 17;
constexpr std::uint64_t kLongestName = 65535;     // what the format allows keys
constexpr std::uint64_t kLongestText = 16 << 20;  // of a value that is copied
constexpr std::uint32_t kMostDimensions = 5;      // gguf fact 47
constexpr std::uint64_t kDefaultAlignment = 32;
constexpr const char* kAlignmentKey = "general.alignment";

/// Types of metadata values, as the file numbers them (gguf fact 45).
enum ValueType : std::uint32_t {
    value_u8,
    value_i8,
    value_u16,
    value_i16,
    value_u32,
    value_i32,
    value_f32,
    value_bool,
    value_string,
    value_array,
    value_u64,
    value_i64,
    value_f64,
    value_types,  // how many there are
};

/// Bytes of a value; 0: of no fixed size.
constexpr std::array<std::uint64_t, value_types> kValueBytes = {1, 1, 2, 2, 4, 4, 4,
                                                                1, 0, 0, 8, 8, 8};

struct TensorType {
    std::uint32_t id;
    DType dtype;
};

constexpr std::array<TensorType, 20> kTensorTypes = {{
    {0, DType::f32},     {1, DType::f16},     {2, DType::q4_0},  {3, DType::q4_1},
    {6, DType::q5_0},    {7, DType::q5_1},    {8, DType::q8_0},  {10, DType::q2_k},
    {11, DType::q3_k},   {12, DType::q4_k},   {13, DType::q5_k}, {14, DType::q6_k},
    {20, DType::iq4_nl}, {23, DType::iq4_xs}, {24, DType::i8},   {25, DType::i16},
    {26, DType::i32},    {27, DType::i64},    {28, DType::f64},  {30, DType::bf16},
}};

/// Types of ggml that nothing here widens, for messages.
struct UnreadType {
    std::uint32_t id;
    const char* name;
};
constexpr std::array<UnreadType, 10> kUnreadTypes = {{{16, "IQ2_XXS"},
                                                      {17, "IQ2_XS"},
                                                      {18, "IQ3_XXS"},
                                                      {19, "IQ1_S"},
                                                      {21, "IQ3_S"},
                                                      {22, "IQ2_S"},
                                                      {29, "IQ1_M"},
                                                      {34, "TQ1_0"},
                                                      {35, "TQ2_0"},
                                                      {39, "MXFP4"}}};

[[noreturn]] void reject(const std::filesystem::path& path, const std::string& what,
                         ErrorCode code = ErrorCode::bad_file) {
    throw Error(code, fmt::format("'{}' is not a usable GGUF file: {}", path.string(), what));
}

template <typename T>
T load(const std::byte* position) {
    T value;
    std::memcpy(&value, position, sizeof(T));
    return value;
}

double number_at(const std::byte* position, std::uint32_t type) {
    switch (type) {
        case value_u8:
        case value_bool:
            return load<std::uint8_t>(position);
        case value_i8:
            return load<std::int8_t>(position);
        case value_u16:
            return load<std::uint16_t>(position);
        case value_i16:
            return load<std::int16_t>(position);
        case value_u32:
            return load<std::uint32_t>(position);
        case value_i32:
            return load<std::int32_t>(position);
        case value_f32:
            return static_cast<double>(load<float>(position));
        case value_u64:
            return static_cast<double>(load<std::uint64_t>(position));
        case value_i64:
            return static_cast<double>(load<std::int64_t>(position));
        default:
            return load<double>(position);
    }
}

std::string number_text(const std::byte* position, std::uint32_t type) {
    switch (type) {
        case value_bool:
            return load<std::uint8_t>(position) != 0 ? "true" : "false";
        case value_u64:
            return fmt::to_string(load<std::uint64_t>(position));
        case value_i64:
            return fmt::to_string(load<std::int64_t>(position));
        case value_f32:
            return fmt::to_string(load<float>(position));
        case value_f64:
            return fmt::to_string(load<double>(position));
        default:
            return fmt::to_string(static_cast<std::int64_t>(number_at(position, type)));
    }
}

/// Reads the head of a file from front to back; every step checks what is left.
class Cursor {
  public:
    Cursor(std::span<const std::byte> bytes, const std::filesystem::path& path)
        : bytes_(bytes), path_(path) {}

    std::uint64_t position() const { return position_; }
    std::uint64_t left() const { return bytes_.size() - position_; }

    std::span<const std::byte> take(std::uint64_t count, const std::string& what) {
        if (count > left()) {
            reject(path_, fmt::format("{} needs {} bytes at byte {}, which passes the end of the "
                                      "file ({} bytes); it is truncated, copy or download it again",
                                      what, count, position_, bytes_.size()));
        }
        const auto taken =
            bytes_.subspan(static_cast<std::size_t>(position_), static_cast<std::size_t>(count));
        position_ += count;
        return taken;
    }
    template <typename T>
    T number(const std::string& what) {
        return load<T>(take(sizeof(T), what).data());
    }
    std::string_view text(const std::string& what, std::uint64_t longest) {
        const auto length = number<std::uint64_t>(what);
        if (length > longest && length <= left()) {
            reject(path_, fmt::format("{} has {} bytes where at most {} make sense", what, length,
                                      longest));
        }
        const auto taken = take(length, what);
        return {reinterpret_cast<const char*>(taken.data()), taken.size()};
    }

  private:
    std::span<const std::byte> bytes_;
    const std::filesystem::path& path_;
    std::uint64_t position_ = 0;
};

struct Range {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    const std::string* name = nullptr;
};

}  // namespace

bool GgufArray::of_strings() const {
    return type == value_string;
}

std::vector<std::string_view> GgufArray::strings() const {
    std::vector<std::string_view> result;
    if (!of_strings()) {
        return result;
    }
    result.reserve(static_cast<std::size_t>(count));
    const std::byte* position = bytes.data();
    for (std::uint64_t i = 0; i < count; ++i) {
        const auto length = load<std::uint64_t>(position);
        result.emplace_back(reinterpret_cast<const char*>(position) + sizeof length, length);
        position += sizeof length + length;
    }
    return result;
}

std::vector<double> GgufArray::numbers() const {
    std::vector<double> result;
    if (of_strings()) {
        return result;
    }
    result.reserve(static_cast<std::size_t>(count));
    for (std::uint64_t i = 0; i < count; ++i) {
        result.push_back(number_at(bytes.data() + i * kValueBytes[type], type));
    }
    return result;
}

struct GgufFile::Impl {
    explicit Impl(const std::filesystem::path& file_path) : path(file_path), file(file_path) {}

    void read();
    void read_value(Cursor& cursor);
    GgufArray read_array(Cursor& cursor, const std::string& what) const;
    TensorView read_tensor(Cursor& cursor, std::uint64_t& offset) const;
    DType type_of(std::uint32_t id, const std::string& tensor) const;
    void place(TensorView view, std::uint64_t offset, std::span<const std::byte> data);
    void check_overlaps();

    std::filesystem::path path;
    MappedFile file;
    std::uint64_t alignment = kDefaultAlignment;
    std::map<std::string, std::string> metadata;
    std::map<std::string, GgufArray, std::less<>> arrays;
    std::map<std::string, TensorView, std::less<>> tensors;
    std::vector<Range> ranges;
};

void GgufFile::Impl::read() {
    Cursor cursor(file.bytes(), path);
    const auto magic = cursor.take(kMagic.size(), "the magic");
    if (std::memcmp(magic.data(), kMagic.data(), kMagic.size()) != 0) {
        reject(path,
               fmt::format("its magic is '{}' where '{}' is needed; formats before GGUF are "
                           "not read",
                           printable({reinterpret_cast<const char*>(magic.data()), 4}), kMagic));
    }
    const auto version = cursor.number<std::uint32_t>("the version");
    if (version != 0 && (version & 0xFFFF) == 0) {
        reject(path,
               fmt::format("its version is {:#010x}: the file is big-endian, which is not "
                           "read",
                           version),
               ErrorCode::unsupported);
    }
    if (version != 2 && version != 3) {
        reject(path, fmt::format("it is of version {}; versions 2 and 3 are read", version),
               ErrorCode::unsupported);
    }
    const auto count = [&](const char* what, std::uint64_t least_bytes) {
        const auto number = cursor.number<std::uint64_t>(what);
        if (number > kMostEntries || number > cursor.left() / least_bytes) {
            reject(path, fmt::format("{} is {}, more than a file of {} bytes can hold or a model "
                                     "has",
                                     what, number, file.bytes().size()));
        }
        return number;
    };
    const auto tensor_count = count("the tensor count", 24);
    const auto value_count = count("the metadata count", 13);
    for (std::uint64_t i = 0; i < value_count; ++i) {
        read_value(cursor);
    }
    std::vector<std::pair<TensorView, std::uint64_t>> entries;
    for (std::uint64_t i = 0; i < tensor_count; ++i) {
        std::uint64_t offset = 0;
        TensorView view = read_tensor(cursor, offset);
        entries.emplace_back(std::move(view), offset);
    }
    const std::uint64_t start = (cursor.position() + alignment - 1) / alignment * alignment;
    const auto data = file.bytes().subspan(
        static_cast<std::size_t>(std::min<std::uint64_t>(start, file.bytes().size())));
    for (auto& [view, offset] : entries) {
        place(std::move(view), offset, data);
    }
    check_overlaps();
    const auto parts = metadata.find("split.count");
    if (parts != metadata.end() && parts->second != "0" && parts->second != "1") {
        reject(path,
               fmt::format("it is one of {} parts (split.count); merge them first with "
                           "llama-gguf-split --merge",
                           printable(parts->second)),
               ErrorCode::unsupported);
    }
}

void GgufFile::Impl::read_value(Cursor& cursor) {
    const std::string key(cursor.text("a metadata key", kLongestName));
    const std::string what = fmt::format("the metadata value of '{}'", printable(key));
    const auto type = cursor.number<std::uint32_t>(what);
    if (type >= value_types) {
        reject(path, fmt::format("{} has the unknown type {}", what, type));
    }
    bool inserted = false;
    if (type == value_array) {
        inserted = !metadata.contains(key) && arrays.emplace(key, read_array(cursor, what)).second;
    } else if (type == value_string) {
        inserted = !arrays.contains(key) &&
                   metadata.emplace(key, std::string(cursor.text(what, kLongestText))).second;
    } else {
        const auto bytes = cursor.take(kValueBytes[type], what);
        inserted =
            !arrays.contains(key) && metadata.emplace(key, number_text(bytes.data(), type)).second;
        if (key == kAlignmentKey) {
            alignment = type == value_u32 ? load<std::uint32_t>(bytes.data()) : 0;
        }
    }
    if (!inserted) {
        reject(path, fmt::format("the metadata key '{}' is there twice", printable(key)));
    }
    if (key == kAlignmentKey && (type != value_u32 || !std::has_single_bit(alignment))) {
        reject(path, fmt::format("{} must be a power of two as a 32-bit number", what));
    }
}

GgufArray GgufFile::Impl::read_array(Cursor& cursor, const std::string& what) const {
    GgufArray array;
    array.type = cursor.number<std::uint32_t>(what);
    array.count = cursor.number<std::uint64_t>(what);
    if (array.type >= value_types || array.type == value_array) {
        reject(path, fmt::format("{} is an array of the unknown type {}", what, array.type));
    }
    const std::uint64_t least = array.of_strings() ? 8 : kValueBytes[array.type];
    if (array.count > cursor.left() / least) {
        reject(path, fmt::format("{} claims {} elements, which pass the end of the file; it is "
                                 "truncated, copy or download it again",
                                 what, array.count));
    }
    const std::uint64_t start = cursor.position();
    if (array.of_strings()) {
        for (std::uint64_t i = 0; i < array.count; ++i) {
            cursor.text(what, std::numeric_limits<std::uint64_t>::max());
        }
    } else {
        cursor.take(array.count * least, what);
    }
    array.bytes = file.bytes().subspan(static_cast<std::size_t>(start),
                                       static_cast<std::size_t>(cursor.position() - start));
    return array;
}

DType GgufFile::Impl::type_of(std::uint32_t id, const std::string& tensor) const {
    for (const auto& type : kTensorTypes) {
        if (type.id == id) {
            return type.dtype;
        }
    }
    for (const auto& type : kUnreadTypes) {
        if (type.id == id) {
            reject(path,
                   fmt::format("tensor '{}' has the type {}, which this version does not "
                               "read; take a file of Q4_K, Q5_K, Q6_K or Q8_0",
                               tensor, type.name),
                   ErrorCode::unsupported);
        }
    }
    reject(path, fmt::format("tensor '{}' has the unknown type {}", tensor, id));
}

TensorView GgufFile::Impl::read_tensor(Cursor& cursor, std::uint64_t& offset) const {
    TensorView view;
    view.name = cursor.text("a tensor's name", kLongestName);
    const std::string shown = printable(view.name);
    const std::string what = fmt::format("the entry of tensor '{}'", shown);
    const auto dimensions = cursor.number<std::uint32_t>(what);
    if (dimensions > kMostDimensions) {
        reject(path, fmt::format("tensor '{}' has {} dimensions; up to {} are read", shown,
                                 dimensions, kMostDimensions));
    }
    for (std::uint32_t i = 0; i < dimensions; ++i) {
        const auto extent = cursor.number<std::uint64_t>(what);
        if (extent > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
            reject(path, fmt::format("tensor '{}' has a dimension of {}", shown, extent));
        }
        // Stored fastest first (gguf fact 46).
        view.shape.insert(view.shape.begin(), static_cast<std::int64_t>(extent));
    }
    view.dtype = type_of(cursor.number<std::uint32_t>(what), shown);
    offset = cursor.number<std::uint64_t>(what);
    const ElementBlock block = block_of(view.dtype);
    const std::int64_t row = view.shape.empty() ? 1 : view.shape.back();
    if (row % block.values != 0) {
        reject(path, fmt::format("tensor '{}' has rows of {} values, no multiple of the {} of a "
                                 "block of {}",
                                 shown, row, block.values, name_of(view.dtype)));
    }
    std::int64_t count = 1;
    bool overflow = false;
    for (const auto extent : view.shape) {
        overflow |= __builtin_mul_overflow(count, extent, &count);
    }
    std::int64_t bytes = 0;
    overflow |= __builtin_mul_overflow(count / block.values, block.bytes, &bytes);
    if (overflow) {
        reject(path, fmt::format("the shape {} of tensor '{}' overflows 64 bits",
                                 shape_text(view.shape), shown));
    }
    return view;
}

void GgufFile::Impl::place(TensorView view, std::uint64_t offset, std::span<const std::byte> data) {
    const std::string shown = printable(view.name);
    const std::uint64_t bytes = view.byte_count();
    if (offset % alignment != 0) {
        reject(path, fmt::format("the offset {} of tensor '{}' is no multiple of the alignment {}",
                                 offset, shown, alignment));
    }
    if (offset > data.size() || bytes > data.size() - offset) {
        reject(path, fmt::format("tensor '{}' has {} bytes from data byte {} on, which passes the "
                                 "end of the file ({} data bytes); it is truncated, copy or "
                                 "download it again",
                                 shown, bytes, offset, data.size()));
    }
    view.bytes = data.subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(bytes));
    std::string name = view.name;
    const auto [position, inserted] = tensors.emplace(std::move(name), std::move(view));
    if (!inserted) {
        reject(path, fmt::format("two tensors have the name '{}'", shown));
    }
    if (bytes > 0) {
        ranges.push_back({offset, offset + bytes, &position->first});
    }
}

void GgufFile::Impl::check_overlaps() {
    std::sort(ranges.begin(), ranges.end(),
              [](const Range& a, const Range& b) { return a.begin < b.begin; });
    for (std::size_t i = 1; i < ranges.size(); ++i) {
        if (ranges[i].begin < ranges[i - 1].end) {
            reject(path, fmt::format("tensors '{}' and '{}' overlap at data byte {}",
                                     printable(*ranges[i - 1].name), printable(*ranges[i].name),
                                     ranges[i].begin));
        }
    }
}

GgufFile::GgufFile(const std::filesystem::path& path) : impl_(std::make_unique<Impl>(path)) {
    impl_->read();
}

GgufFile::~GgufFile() = default;

const std::filesystem::path& GgufFile::path() const {
    return impl_->path;
}

const std::map<std::string, std::string>& GgufFile::metadata() const {
    return impl_->metadata;
}

const std::map<std::string, TensorView, std::less<>>& GgufFile::tensors() const {
    return impl_->tensors;
}

const GgufArray* GgufFile::array(std::string_view key) const {
    const auto position = impl_->arrays.find(key);
    return position == impl_->arrays.end() ? nullptr : &position->second;
}

bool begins_like_gguf(std::span<const std::byte> bytes) {
    // Read as a safetensors header length these four bytes are a gigabyte or more, above its limit.
    const auto capital = [&](std::size_t i) {
        return bytes[i] >= std::byte{'A'} && bytes[i] <= std::byte{'Z'};
    };
    return bytes.size() >= 4 && bytes[0] == std::byte{'G'} && bytes[1] == std::byte{'G'} &&
           capital(2) && capital(3);
}

}  // namespace quantsparse::format
