#include "calib/pickle_reader.hpp"

#include <fmt/format.h>

#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "format/text.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::calib {
namespace {

using format::DType;

struct Value;
using ValuePointer = std::shared_ptr<Value>;

/// One Python object, as far as state dicts have them.
struct Value {
    enum class Kind { none, mark, boolean, integer, text, sequence, dictionary, global, tensor };
    Kind kind = Kind::none;
    std::int64_t integer = 0;
    std::string text;  ///< text, or "module name" of a global
    std::vector<ValuePointer> items;
    std::vector<std::pair<ValuePointer, ValuePointer>> entries;
    PthTensor tensor;  ///< a tensor, or a storage (then without shape)
};

std::optional<DType> storage_dtype(const std::string& global) {
    static const std::map<std::string, DType> known = {
        {"torch FloatStorage", DType::f32},     {"torch HalfStorage", DType::f16},
        {"torch BFloat16Storage", DType::bf16}, {"torch DoubleStorage", DType::f64},
        {"torch LongStorage", DType::i64},      {"torch IntStorage", DType::i32},
        {"torch CharStorage", DType::i8},       {"torch ByteStorage", DType::u8},
        {"torch BoolStorage", DType::boolean}};
    const auto position = known.find(global);
    return position == known.end() ? std::nullopt : std::optional(position->second);
}

class Interpreter {
  public:
    Interpreter(std::span<const std::byte> bytes, const std::string& where)
        : bytes_(bytes), where_(where) {}

    ValuePointer run();

  private:
    bool push_value(std::uint8_t opcode);
    bool remember(std::uint8_t opcode);
    bool combine(std::uint8_t opcode);
    [[noreturn]] void damaged(const char* what) const {
        throw Error(ErrorCode::bad_file,
                    fmt::format("'{}' is not a usable .pth file: {} at byte {} "
                                "of its pickle",
                                where_, what, position_));
    }
    [[noreturn]] void refuse(const std::string& what) const {
        throw Error(ErrorCode::unsupported,
                    fmt::format("'{}' holds {}, where a plain dictionary of tensors is expected; "
                                "save the model's state_dict",
                                where_, format::printable(what)));
    }

    std::uint8_t byte() {
        if (position_ >= bytes_.size()) {
            damaged("it ends early");
        }
        return std::to_integer<std::uint8_t>(bytes_[position_++]);
    }
    std::uint64_t little_endian(int count) {
        std::uint64_t value = 0;
        for (int i = 0; i < count; ++i) {
            value |= static_cast<std::uint64_t>(byte()) << (8 * i);
        }
        return value;
    }
    std::string text(std::uint64_t length) {
        if (length > bytes_.size() - position_) {
            damaged("a text passes the end");
        }
        std::string result(reinterpret_cast<const char*>(bytes_.data()) + position_, length);
        position_ += length;
        return result;
    }
    std::string line() {
        std::string result;
        for (auto c = byte(); c != '\n'; c = byte()) {
            result += static_cast<char>(c);
        }
        return result;
    }

    void push(ValuePointer value) { stack_.push_back(std::move(value)); }
    ValuePointer push_new(Value::Kind kind) {
        push(std::make_shared<Value>());
        stack_.back()->kind = kind;
        return stack_.back();
    }
    void push_integer(std::int64_t number) { push_new(Value::Kind::integer)->integer = number; }
    ValuePointer pop() {
        if (stack_.empty()) {
            damaged("the stack is empty");
        }
        auto value = stack_.back();
        stack_.pop_back();
        return value;
    }
    ValuePointer top() {
        if (stack_.empty()) {
            damaged("the stack is empty");
        }
        return stack_.back();
    }
    std::vector<ValuePointer> pop_to_mark() {
        std::vector<ValuePointer> items;
        for (auto value = pop(); value->kind != Value::Kind::mark; value = pop()) {
            items.insert(items.begin(), value);
        }
        return items;
    }
    void tuple(std::size_t count) {
        std::vector<ValuePointer> items;
        for (std::size_t i = 0; i < count; ++i) {
            items.insert(items.begin(), pop());
        }
        push_new(Value::Kind::sequence)->items = std::move(items);
    }
    void set_items(const std::vector<ValuePointer>& pairs) {
        const auto target = top();
        if (target->kind != Value::Kind::dictionary || pairs.size() % 2 != 0) {
            damaged("items without a dictionary");
        }
        for (std::size_t i = 0; i < pairs.size(); i += 2) {
            target->entries.emplace_back(pairs[i], pairs[i + 1]);
        }
    }
    ValuePointer item(const ValuePointer& sequence, std::size_t index, Value::Kind kind) {
        if (sequence->kind != Value::Kind::sequence || index >= sequence->items.size() ||
            sequence->items[index]->kind != kind) {
            damaged("a tensor is described in an unknown way");
        }
        return sequence->items[index];
    }
    std::vector<std::int64_t> integers(const ValuePointer& sequence, std::size_t index) {
        std::vector<std::int64_t> result;
        const auto list = item(sequence, index, Value::Kind::sequence);
        for (const auto& entry : list->items) {
            if (entry->kind != Value::Kind::integer || entry->integer < 0) {
                damaged("a shape that is no list of counts");
            }
            result.push_back(entry->integer);
        }
        return result;
    }

    void persistent_storage();
    void reduce();

    std::span<const std::byte> bytes_;
    std::string where_;
    std::size_t position_ = 0;
    std::vector<ValuePointer> stack_;
    std::map<std::uint64_t, ValuePointer> memo_;
};

/// ("storage", torch.XStorage, key, device, element count)
void Interpreter::persistent_storage() {
    const auto id = pop();
    const auto type = item(id, 1, Value::Kind::global);
    const auto dtype = storage_dtype(type->text);
    if (!dtype) {
        refuse("a storage of type " + type->text);
    }
    const auto key = item(id, 2, Value::Kind::text)->text;
    const auto elements = item(id, 4, Value::Kind::integer)->integer;
    auto& tensor = push_new(Value::Kind::tensor)->tensor;
    tensor.dtype = *dtype;
    tensor.storage = key;
    tensor.storage_elements = elements;
}

void Interpreter::reduce() {
    const auto arguments = pop();
    const auto function = pop();
    if (function->kind != Value::Kind::global) {
        damaged("a call of something that is no function");
    }
    if (function->text == "collections OrderedDict") {
        push_new(Value::Kind::dictionary);
    } else if (function->text == "torch._utils _rebuild_tensor_v2") {
        PthTensor tensor = item(arguments, 0, Value::Kind::tensor)->tensor;
        tensor.offset = item(arguments, 1, Value::Kind::integer)->integer;
        tensor.shape = integers(arguments, 2);
        tensor.strides = integers(arguments, 3);
        push_new(Value::Kind::tensor)->tensor = std::move(tensor);
    } else if (function->text == "torch._utils _rebuild_parameter") {
        push(item(arguments, 0, Value::Kind::tensor));
    } else {
        refuse("an object made by " + function->text);
    }
}

/// Opcodes that push a value; false for another.
bool Interpreter::push_value(std::uint8_t opcode) {
    switch (opcode) {
        case '(':
            push_new(Value::Kind::mark);
            break;
        case ')':
        case ']':
            push_new(Value::Kind::sequence);
            break;
        case '}':
            push_new(Value::Kind::dictionary);
            break;
        case 'N':
            push_new(Value::Kind::none);
            break;
        case 0x88:  // NEWTRUE
        case 0x89:  // NEWFALSE
            push_new(Value::Kind::boolean)->integer = opcode == 0x88 ? 1 : 0;
            break;
        case 'K':
            push_integer(byte());
            break;
        case 'M':
            push_integer(static_cast<std::int64_t>(little_endian(2)));
            break;
        case 'J':
            push_integer(static_cast<std::int32_t>(little_endian(4)));
            break;
        case 0x8A: {  // LONG1: two's complement of 0 to 8 bytes
            const int count = byte();
            if (count > 8) {
                damaged("an integer beyond 64 bits");
            }
            std::uint64_t value = little_endian(count);
            if (count > 0 && count < 8 && (value >> (8 * count - 1) & 1) != 0) {
                value |= ~std::uint64_t{0} << (8 * count);
            }
            push_integer(static_cast<std::int64_t>(value));
            break;
        }
        case 'G':  // a float: of no use here
            little_endian(8);
            push_new(Value::Kind::none);
            break;
        case 'X': {
            const auto length = little_endian(4);
            push_new(Value::Kind::text)->text = text(length);
            break;
        }
        case 0x8C: {  // SHORT_BINUNICODE
            const auto length = byte();
            push_new(Value::Kind::text)->text = text(length);
            break;
        }
        case 'c': {
            const auto module = line();
            push_new(Value::Kind::global)->text = module + " " + line();
            break;
        }
        default:
            return false;
    }
    return true;
}

/// Opcodes of the memo.
bool Interpreter::remember(std::uint8_t opcode) {
    switch (opcode) {
        case 'q':
            memo_[byte()] = top();
            break;
        case 'r':
            memo_[little_endian(4)] = top();
            break;
        case 'h':
        case 'j': {
            const auto found = memo_.find(little_endian(opcode == 'h' ? 1 : 4));
            if (found == memo_.end()) {
                damaged("a reference to nothing");
            }
            push(found->second);
            break;
        }
        default:
            return false;
    }
    return true;
}

/// Opcodes that make something of what is on the stack.
bool Interpreter::combine(std::uint8_t opcode) {
    switch (opcode) {
        case 't': {
            auto items = pop_to_mark();
            push_new(Value::Kind::sequence)->items = std::move(items);
            break;
        }
        case 0x85:  // TUPLE1 to TUPLE3
        case 0x86:
        case 0x87:
            tuple(static_cast<std::size_t>(opcode) - 0x84);
            break;
        case 'a': {
            const auto value = pop();
            top()->items.push_back(value);
            break;
        }
        case 'e': {
            auto items = pop_to_mark();
            auto& target = top()->items;
            target.insert(target.end(), items.begin(), items.end());
            break;
        }
        case 's': {
            const auto value = pop();
            const auto key = pop();
            set_items({key, value});
            break;
        }
        case 'u':
            set_items(pop_to_mark());
            break;
        case 'b':  // BUILD: attributes of a dictionary (`_metadata`), not needed
            pop();
            break;
        case 'Q':
            persistent_storage();
            break;
        case 'R':
            reduce();
            break;
        default:
            return false;
    }
    return true;
}

ValuePointer Interpreter::run() {
    for (;;) {
        const std::uint8_t opcode = byte();
        if (opcode == '.') {
            return pop();
        }
        if (opcode == 0x80) {  // PROTO
            byte();
        } else if (!push_value(opcode) && !remember(opcode) && !combine(opcode)) {
            refuse(fmt::format("a pickle with opcode {:#04x}", opcode));
        }
    }
}

}  // namespace

std::vector<PthTensor> read_state_dict(std::span<const std::byte> pickle,
                                       const std::string& where) {
    const auto root = Interpreter(pickle, where).run();
    if (root->kind != Value::Kind::dictionary) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("'{}' does not hold a dictionary of tensors; save the model's "
                                "state_dict",
                                where));
    }
    std::vector<PthTensor> tensors;
    for (const auto& [key, value] : root->entries) {
        if (key->kind == Value::Kind::text && value->kind == Value::Kind::tensor) {
            tensors.push_back(value->tensor);
            tensors.back().name = key->text;
        }
    }
    if (tensors.empty()) {
        throw Error(ErrorCode::unsupported, fmt::format("'{}' holds no tensors", where));
    }
    return tensors;
}

}  // namespace quantsparse::calib
