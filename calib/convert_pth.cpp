#include "calib/convert_pth.hpp"

#include <caffe2/serialize/inline_container.h>
#include <fmt/format.h>

#include <algorithm>

#include "calib/pickle_reader.hpp"
#include "calib/progress.hpp"
#include "format/mapped_file.hpp"
#include "format/text.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::calib {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kPiece = std::size_t{1} << 26;

/// The archive (LibTorch's zip reader) and the same file mapped, so that tensors need no copy.
class Archive {
  public:
    explicit Archive(const fs::path& path) : path_(path), file_(path), reader_(open(path)) {}

    std::vector<PthTensor> tensors() {
        try {
            const auto [data, size] = reader_->getRecord("data.pkl");
            return read_state_dict({static_cast<const std::byte*>(data.get()), size},
                                   path_.string());
        } catch (const c10::Error&) {
            throw Error(
                ErrorCode::bad_file,
                fmt::format("'{}' has no readable data.pkl; it is damaged", path_.string()));
        }
    }

    std::span<const std::byte> storage(const PthTensor& tensor) {
        std::int64_t bytes = 0;
        if (tensor.storage_elements < 0 ||
            __builtin_mul_overflow(tensor.storage_elements, format::block_of(tensor.dtype).bytes,
                                   &bytes)) {
            damaged(tensor);
        }
        std::size_t offset = 0;
        try {
            offset = reader_->getRecordOffset("data/" + tensor.storage);
        } catch (const c10::Error&) {
            damaged(tensor);
        }
        if (offset > file_.bytes().size() ||
            static_cast<std::uint64_t>(bytes) > file_.bytes().size() - offset) {
            damaged(tensor);
        }
        return file_.bytes().subspan(offset, static_cast<std::size_t>(bytes));
    }

    [[noreturn]] void damaged(const PthTensor& tensor) const {
        throw Error(ErrorCode::bad_file,
                    fmt::format("'{}': the data of tensor '{}' are not where they should be; the "
                                "file is truncated or damaged, download it again",
                                path_.string(), format::printable(tensor.name)));
    }

  private:
    using Reader = caffe2::serialize::PyTorchStreamReader;

    static std::unique_ptr<Reader> open(const fs::path& path) {
        try {
            return std::make_unique<Reader>(path.string());
        } catch (const c10::Error&) {
            throw Error(
                ErrorCode::bad_file,
                fmt::format("'{}' is not a zip archive as torch.save writes them since 1.6; "
                            "it is truncated, or save it again",
                            path.string()));
        }
    }

    fs::path path_;
    format::MappedFile file_;
    std::unique_ptr<Reader> reader_;
};

/// Elements of the shape; throws through `archive` when the tensor reaches past its storage.
std::int64_t checked_count(const Archive& archive, const PthTensor& tensor) {
    std::int64_t count = 1;
    std::int64_t last = tensor.offset;
    bool bad = tensor.offset < 0 || tensor.shape.size() != tensor.strides.size();
    for (std::size_t axis = 0; !bad && axis < tensor.shape.size(); ++axis) {
        std::int64_t reach = 0;
        bad = __builtin_mul_overflow(count, tensor.shape[axis], &count) ||
              __builtin_mul_overflow(std::max<std::int64_t>(tensor.shape[axis] - 1, 0),
                                     tensor.strides[axis], &reach) ||
              __builtin_add_overflow(last, reach, &last);
    }
    if (bad || (count > 0 && last >= tensor.storage_elements)) {
        archive.damaged(tensor);
    }
    return count;
}

bool is_contiguous(const PthTensor& tensor) {
    std::int64_t expected = 1;
    for (std::size_t axis = tensor.shape.size(); axis-- > 0;) {
        if (tensor.shape[axis] != 1 && tensor.strides[axis] != expected) {
            return false;
        }
        expected *= tensor.shape[axis];
    }
    return true;
}

/// A transposed or sliced tensor, element by element in row-major order.
std::vector<std::byte> gather(const PthTensor& tensor, std::span<const std::byte> storage,
                              std::int64_t count) {
    const auto element = static_cast<std::size_t>(format::block_of(tensor.dtype).bytes);
    std::vector<std::byte> result;
    result.reserve(static_cast<std::size_t>(count) * element);
    for (std::int64_t index = 0; index < count; ++index) {
        std::int64_t rest = index;
        std::int64_t position = tensor.offset;
        for (std::size_t axis = tensor.shape.size(); axis-- > 0;) {
            position += rest % tensor.shape[axis] * tensor.strides[axis];
            rest /= tensor.shape[axis];
        }
        const auto source = storage.subspan(static_cast<std::size_t>(position) * element, element);
        result.insert(result.end(), source.begin(), source.end());
    }
    return result;
}

}  // namespace

void convert_pth(const fs::path& source, const fs::path& destination, bool show_progress) {
    Archive archive(source);
    auto tensors = archive.tensors();
    // Wide elements first: every tensor then starts aligned to its element size.
    std::stable_sort(tensors.begin(), tensors.end(), [](const PthTensor& a, const PthTensor& b) {
        return format::block_of(a.dtype).bytes > format::block_of(b.dtype).bytes;
    });
    for (const auto& tensor : tensors) {
        checked_count(archive, tensor);
        archive.storage(tensor);
    }
    format::SafetensorsWriter writer(destination);
    writer.set_metadata("format", "pt");
    for (const auto& tensor : tensors) {
        writer.declare(tensor.name, tensor.dtype, tensor.shape);
    }
    Progress progress("converting " + source.filename().string(), static_cast<int>(tensors.size()),
                      show_progress);
    for (const auto& tensor : tensors) {
        const auto storage = archive.storage(tensor);
        const auto count = checked_count(archive, tensor);
        const auto element = static_cast<std::size_t>(format::block_of(tensor.dtype).bytes);
        std::vector<std::byte> gathered;
        std::span<const std::byte> bytes;
        if (count > 0 && is_contiguous(tensor)) {
            bytes = storage.subspan(static_cast<std::size_t>(tensor.offset) * element,
                                    static_cast<std::size_t>(count) * element);
        } else if (count > 0) {
            gathered = gather(tensor, storage, count);
            bytes = gathered;
        }
        for (std::size_t start = 0; start < bytes.size(); start += kPiece) {
            check_cancelled();
            writer.write(tensor.name, bytes.subspan(start, std::min(kPiece, bytes.size() - start)));
        }
        progress.advance();
    }
    writer.finish();
}

std::vector<fs::path> convert_folder(const fs::path& folder, bool show_progress) {
    std::vector<fs::path> written;
    for (const auto& entry : fs::directory_iterator(folder)) {
        auto destination = entry.path();
        destination.replace_extension(".safetensors");
        if (entry.path().extension() == ".pth" && !fs::exists(destination)) {
            convert_pth(entry.path(), destination, show_progress);
            written.push_back(destination);
        }
    }
    return written;
}

}  // namespace quantsparse::calib
