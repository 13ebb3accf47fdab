#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "format/safetensors.hpp"
#include "format/text.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::format {
namespace {

struct Declared {
    std::string name;
    DType dtype = DType::f32;
    std::vector<std::int64_t> shape;
    std::uint64_t byte_count = 0;
};

}  // namespace

struct SafetensorsWriter::Impl {
    std::filesystem::path destination;
    std::filesystem::path temporary;
    int descriptor = -1;
    bool header_written = false;
    std::map<std::string, std::string> metadata;
    std::vector<Declared> tensors;
    std::set<std::string> names;
    std::size_t current = 0;  ///< index of the tensor being written
    std::uint64_t written_of_current = 0;

    void write_all(const void* data, std::size_t size);
    void write_header();
    void skip_finished();
    [[noreturn]] void fail(const char* what, int reason) const;
};

void SafetensorsWriter::Impl::fail(const char* what, int reason) const {
    const char* advice = reason == ENOSPC || reason == EDQUOT || reason == EFBIG
                             ? "free some space or choose another folder"
                             : "check the folder and its permissions";
    throw Error(ErrorCode::io, fmt::format("can't {} '{}': {}; {}", what, destination.string(),
                                           std::strerror(reason), advice));
}

void SafetensorsWriter::Impl::write_all(const void* data, std::size_t size) {
    const char* position = static_cast<const char*>(data);
    while (size > 0) {
        // Linux moves at most 2 GiB a call; smaller pieces also let a signal in between.
        const std::size_t piece = std::min<std::size_t>(size, std::size_t{1} << 28);
        const ssize_t count = ::write(descriptor, position, piece);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count <= 0) {
            fail("write", count == 0 ? ENOSPC : errno);
        }
        position += count;
        size -= static_cast<std::size_t>(count);
    }
}

void SafetensorsWriter::Impl::write_header() {
    // Ordered, so that the header lists the tensors as they lie in the file.
    nlohmann::ordered_json header = nlohmann::ordered_json::object();
    if (!metadata.empty()) {
        header["__metadata__"] = metadata;
    }
    std::uint64_t offset = 0;
    for (const auto& tensor : tensors) {
        auto& entry = header[tensor.name];
        entry["dtype"] = std::string(name_of(tensor.dtype));
        entry["shape"] = tensor.shape;
        entry["data_offsets"] = {offset, offset + tensor.byte_count};
        offset += tensor.byte_count;
    }
    std::string text;
    try {
        text = header.dump();
    } catch (const nlohmann::json::exception&) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("a tensor name or metadata value for '{}' is not UTF-8",
                                destination.string()));
    }
    text.resize((text.size() + 7) / 8 * 8, ' ');
    std::uint8_t length[8];
    for (int i = 0; i < 8; ++i) {
        length[i] = static_cast<std::uint8_t>(text.size() >> (8 * i));
    }
    write_all(length, sizeof length);
    write_all(text.data(), text.size());
    header_written = true;
    skip_finished();
}

void SafetensorsWriter::Impl::skip_finished() {
    while (current < tensors.size() && written_of_current == tensors[current].byte_count) {
        ++current;
        written_of_current = 0;
    }
}

SafetensorsWriter::SafetensorsWriter(std::filesystem::path destination)
    : impl_(std::make_unique<Impl>()) {
    impl_->destination = std::move(destination);
    if (std::filesystem::is_directory(impl_->destination)) {
        throw Error(ErrorCode::io, fmt::format("can't write '{}': it is a folder; give a file name",
                                               impl_->destination.string()));
    }
    impl_->temporary = impl_->destination;
    impl_->temporary += fmt::format(".writing-{}", ::getpid());
    impl_->descriptor =
        ::open(impl_->temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (impl_->descriptor < 0) {
        impl_->fail("create", errno);
    }
}

SafetensorsWriter::~SafetensorsWriter() {
    if (impl_->descriptor >= 0) {
        ::close(impl_->descriptor);
        ::unlink(impl_->temporary.c_str());
    }
}

void SafetensorsWriter::set_metadata(const std::string& key, const std::string& value) {
    impl_->metadata[key] = value;
}

void SafetensorsWriter::declare(const std::string& name, DType dtype,
                                const std::vector<std::int64_t>& shape) {
    if (impl_->header_written) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("tensor '{}' was declared after writing began", printable(name)));
    }
    std::int64_t bytes = block_of(dtype).bytes;
    bool bad = false;
    for (const auto dimension : shape) {
        bad |= dimension < 0 || __builtin_mul_overflow(bytes, dimension, &bytes);
    }
    if (bad || name.empty() || name == "__metadata__" || !impl_->names.insert(name).second) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("tensor '{}' {} can't be declared: bad shape, or the name is taken",
                                printable(name), shape_text(shape)));
    }
    impl_->tensors.push_back({name, dtype, shape, static_cast<std::uint64_t>(bytes)});
}

void SafetensorsWriter::write(const std::string& name, std::span<const std::byte> bytes) {
    if (!impl_->header_written) {
        impl_->write_header();
    }
    if (bytes.empty()) {
        return;
    }
    if (impl_->current >= impl_->tensors.size() || impl_->tensors[impl_->current].name != name) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("tensor '{}' is not the next one declared for '{}'",
                                printable(name), impl_->destination.string()));
    }
    const auto& tensor = impl_->tensors[impl_->current];
    if (bytes.size() > tensor.byte_count - impl_->written_of_current) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("tensor '{}' was given more than its {} bytes", printable(name),
                                tensor.byte_count));
    }
    impl_->write_all(bytes.data(), bytes.size());
    impl_->written_of_current += bytes.size();
    impl_->skip_finished();
}

void SafetensorsWriter::finish() {
    if (!impl_->header_written) {
        impl_->write_header();
    }
    if (impl_->current < impl_->tensors.size()) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("tensor '{}' of '{}' was not written completely",
                                printable(impl_->tensors[impl_->current].name),
                                impl_->destination.string()));
    }
    const int descriptor = impl_->descriptor;
    impl_->descriptor = -1;
    if (::close(descriptor) != 0) {
        const int reason = errno;
        ::unlink(impl_->temporary.c_str());
        impl_->fail("write", reason);
    }
    if (::rename(impl_->temporary.c_str(), impl_->destination.c_str()) != 0) {
        const int reason = errno;
        ::unlink(impl_->temporary.c_str());
        impl_->fail("rename the finished file to", reason);
    }
}

}  // namespace quantsparse::format
