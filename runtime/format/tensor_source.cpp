#include "format/tensor_source.hpp"

#include <fmt/format.h>

#include <array>
#include <fstream>
#include <span>

#include "format/gguf.hpp"
#include "format/safetensors.hpp"
#include "format/text.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::format {

const TensorView* TensorSource::find(std::string_view name) const {
    const auto position = tensors().find(name);
    return position == tensors().end() ? nullptr : &position->second;
}

const TensorView& TensorSource::at(std::string_view name) const {
    if (const auto* view = find(name)) {
        return *view;
    }
    throw Error(ErrorCode::bad_file, fmt::format("'{}' has no tensor '{}'; it is incomplete or of "
                                                 "another model",
                                                 path().string(), printable(name)));
}

std::shared_ptr<const TensorSource> open_tensor_source(const std::filesystem::path& path) {
    std::array<char, 4> start{};
    std::ifstream(path, std::ios::binary).read(start.data(), start.size());
    if (begins_like_gguf(std::as_bytes(std::span(start)))) {
        return std::make_shared<GgufFile>(path);
    }
    return std::make_shared<SafetensorsFile>(path);
}

}  // namespace quantsparse::format
