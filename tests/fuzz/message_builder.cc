#include "tests/fuzz/message_builder.h"

#include <google/protobuf/descriptor.h>

#include <bit>

namespace vlm::fuzz {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr int kDepthMax = 6;
constexpr size_t kRawBytesMax = 512;
constexpr size_t kLongTextBytes = 5000;

class Builder {
 public:
  Builder(const KnownValues& known, FuzzInput* input) : known_(known), input_(*input) {}

  void Fill(Message* message, int depth) {
    const google::protobuf::Descriptor& type = *message->GetDescriptor();
    for (int i = 0; i < type.field_count() && !input_.empty(); ++i) {
      const FieldDescriptor* const field = type.field(i);
      const uint8_t choice = input_.Byte();
      if (choice < 100) continue;  // absent
      const int values = field->is_repeated() ? 1 + choice % 3 : 1;
      for (int value = 0; value < values; ++value) Set(field, depth, message);
    }
  }

 private:
  std::string Text(const FieldDescriptor* field) {
    const auto found = known_.texts.find(field->name());
    const uint8_t choice = input_.Byte();
    if (found != known_.texts.end() && !found->second.empty() && choice < 224) {
      return found->second[choice % found->second.size()];
    }
    std::string text(input_.Text());
    if (field->type() == FieldDescriptor::TYPE_BYTES) return text;
    // Long enough, at times, that a limit cuts it.
    if (choice > 250 && !text.empty()) {
      while (text.size() < kLongTextBytes) text += std::string(text);
    }
    // No parser lets a string through that is not UTF-8. Two bytes make one character of two, so that cutting a text
    // may meet the middle of one.
    for (size_t i = 0; i < text.size(); ++i) {
      if (static_cast<unsigned char>(text[i]) < 0x80) continue;
      text.replace(i, 1, "\xc3\xa9");
      ++i;
    }
    return text;
  }

  uint64_t Number(const FieldDescriptor* field) {
    const auto found = known_.numbers.find(field->name());
    if (found == known_.numbers.end() || found->second.empty()) return input_.Number();
    const uint8_t choice = input_.Byte();
    return choice < 224 ? found->second[choice % found->second.size()] : input_.Number();
  }

  void Set(const FieldDescriptor* field, int depth, Message* message) {
    const Reflection& reflection = *message->GetReflection();
    const bool many = field->is_repeated();
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_MESSAGE:
        if (depth < kDepthMax) {
          Fill(many ? reflection.AddMessage(message, field) : reflection.MutableMessage(message, field), depth + 1);
        }
        break;
      case FieldDescriptor::CPPTYPE_STRING:
        many ? reflection.AddString(message, field, Text(field)) : reflection.SetString(message, field, Text(field));
        break;
      default:
        SetNumber(field, Number(field), message);
    }
  }

  static void SetNumber(const FieldDescriptor* field, uint64_t value, Message* message) {
    const Reflection& reflection = *message->GetReflection();
    const bool many = field->is_repeated();
    const auto set = [&](auto one, auto add, auto typed) {
      many ? (reflection.*add)(message, field, typed) : (reflection.*one)(message, field, typed);
    };
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_INT32:
        return set(&Reflection::SetInt32, &Reflection::AddInt32, static_cast<int32_t>(value));
      case FieldDescriptor::CPPTYPE_INT64:
        return set(&Reflection::SetInt64, &Reflection::AddInt64, static_cast<int64_t>(value));
      case FieldDescriptor::CPPTYPE_UINT32:
        return set(&Reflection::SetUInt32, &Reflection::AddUInt32, static_cast<uint32_t>(value));
      case FieldDescriptor::CPPTYPE_UINT64:
        return set(&Reflection::SetUInt64, &Reflection::AddUInt64, value);
      case FieldDescriptor::CPPTYPE_BOOL:
        return set(&Reflection::SetBool, &Reflection::AddBool, value % 2 != 0);
      case FieldDescriptor::CPPTYPE_ENUM:  // also values that no version names
        return set(&Reflection::SetEnumValue, &Reflection::AddEnumValue, static_cast<int>(value));
      case FieldDescriptor::CPPTYPE_FLOAT:
        return set(&Reflection::SetFloat, &Reflection::AddFloat, std::bit_cast<float>(static_cast<uint32_t>(value)));
      case FieldDescriptor::CPPTYPE_DOUBLE:
        return set(&Reflection::SetDouble, &Reflection::AddDouble,
                   value < 256 ? static_cast<double>(value) : std::bit_cast<double>(value));
      case FieldDescriptor::CPPTYPE_STRING:
      case FieldDescriptor::CPPTYPE_MESSAGE:
        return;
    }
  }

  const KnownValues& known_;
  FuzzInput& input_;
};

}  // namespace

void FillMessage(const KnownValues& known, FuzzInput* input, Message* message) {
  Builder(known, input).Fill(message, 0);
}

bool ReadMessage(const KnownValues& known, FuzzInput* input, Message* message) {
  const uint8_t choice = input->Byte();
  if (choice < 200) {
    FillMessage(known, input, message);
    return true;
  }
  return message->ParseFromString(std::string(input->Take(choice == 255 ? kRawBytesMax : input->Byte())));
}

}  // namespace vlm::fuzz
