"""The scanner of functions on code of every shape that the tree has."""
from functions import functions

CODE = r'''
#define CLOSES }
namespace vlm {
namespace {
const int kTable[] = {1, 2};
constexpr auto kText = R"({ not ( code)";
std::map<int, std::string> table = {{1, "}"}, {2, "{"}};
struct Place {
  int line = 0;  // { in a comment
  int Sum(int a, std::map<int, int> b) const { return a + line; }
  bool operator==(const Place& other) const { return line == other.line; }
};
enum class Kind { kOne, kTwo };
}  // namespace

class Owner : public Base {
 public:
  explicit Owner(std::function<void(int, int)> callback, int (*plain)(int), std::pair<int, int> both = {1, 2})
      : callback_{callback}, plain_(plain) {
    for (int i = 0; i < 2; ++i) {
      auto lambda = [&](int a, int b, int c, int d, int e, int f) { return '}'; };
    }
  }
  virtual void Pure(int a, int b, int c, int d, int e, int f) = 0;

 private:
  std::vector<int> sizes_ = {1, 2, 3};
};

template <typename T, typename U = std::pair<T, T>>
absl::StatusOr<std::map<T, U>> Owner::Make(T a, U b, std::array<int, 3> c,
                                           int d, int e, int f) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
  if (a) {
    return b;
  }
  return c;
}
void Nothing(void) {}
int Given(int a, int b, int c, int d, int e, int f) override { return a; }

TEST(OwnerTest, Makes) {
  EXPECT_EQ(1'000, 1000);
}
}  // namespace vlm
'''

found = [(f.name, f.lines, f.parameters) for f in functions(CODE)]
assert found == [("Sum", 1, 2), ("operator_", 1, 1), ("Owner", 6, 3), ("Owner::Make", 8, 6), ("Nothing", 1, 0),
                 ("Given", 1, 0), ("OwnerTest, Makes", 3, 0)], found
assert functions(CODE)[3].line == 1 + CODE[:CODE.index("template <")].count("\n")
