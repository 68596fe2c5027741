#include "coordinator/decision_loop.h"

#include <pthread.h>

#include <iterator>

#include "base/check.h"
#include "rpc/retry.h"

namespace vlm::coordinator {
namespace {

template <typename T>
void Append(std::vector<T>* to, std::vector<T> from) {
  to->insert(to->end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

template <typename T>
void Move(std::deque<T>* from, size_t most, std::vector<T>* to) {
  for (; most > 0 && !from->empty(); --most) {
    to->push_back(std::move(from->front()));
    from->pop_front();
  }
}

// A full queue of 1,024 calls takes about so long.
constexpr absl::Duration kCallAgain = absl::Milliseconds(200);

absl::Status Stopped() { return absl::UnavailableError("the coordinator is stopping"); }

}  // namespace

DecisionLoop::DecisionLoop(DecisionLoopOptions options, DecisionLoopDeps deps)
    : options_(options), deps_(std::move(deps)) {}

DecisionLoop::~DecisionLoop() { Stop(); }

void DecisionLoop::Start(Outputs started) {
  {
    MutexLock lock(&mutex_);
    VLM_CHECK(!started_, "a decision loop starts once");
    started_ = true;
    next_.emplace();
    next_->outputs = std::move(started);
  }
  syncer_ = std::thread([this] { Sync(); });
  decider_ = std::thread([this] { Decide(); });
  pthread_setname_np(syncer_.native_handle(), "sync");
  pthread_setname_np(decider_.native_handle(), "decide");
}

void DecisionLoop::Stop() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
    arrived_.NotifyAll();
    handed_.NotifyAll();
  }
  if (decider_.joinable()) decider_.join();
  if (syncer_.joinable()) syncer_.join();
  std::deque<Item> dropped, dropped_calls;  // their destructors may answer callers: not under the lock
  MutexLock lock(&mutex_);
  dropped.swap(messages_);
  dropped_calls.swap(calls_);
}

void DecisionLoop::Enqueue(const std::function<Input(uint64_t call)>& make, std::function<void(const Reply&)> done) {
  Item item;
  item.input = make(next_call_++);
  item.done = done;
  const absl::Status added = AddCall(std::move(item));
  if (!added.ok()) done(Reply{0, added, {}});
}

absl::Status DecisionLoop::AddCall(Item item) {
  MutexLock lock(&mutex_);
  if (stopping_) return Stopped();
  if (calls_.size() >= options_.calls_max) {
    deps_.metrics->CallRefused();
    return rpc::WithRetryDelay(
        absl::ResourceExhaustedError("the coordinator has too many calls waiting; try again in 200 ms"), kCallAgain);
  }
  calls_.push_back(std::move(item));
  arrived_.NotifyOne();
  return absl::OkStatus();
}

bool DecisionLoop::FromSession(Input input) {
  MutexLock lock(&mutex_);
  if (stopping_ || messages_.size() >= options_.messages_max) return false;
  messages_.push_back({std::move(input), nullptr, nullptr, nullptr});
  arrived_.NotifyOne();
  return true;
}

void DecisionLoop::Tell(Input input) {
  MutexLock lock(&mutex_);
  if (stopping_) return;
  messages_.push_back({std::move(input), nullptr, nullptr, nullptr});
  arrived_.NotifyOne();
}

absl::Status DecisionLoop::Read(std::function<void(const Coordinator&)> look, std::function<void()> then) {
  Item item;
  item.look = std::move(look);
  item.then = std::move(then);
  return AddCall(std::move(item));
}

size_t DecisionLoop::waiting() const {
  MutexLock lock(&mutex_);
  return calls_.size() + messages_.size();
}

bool DecisionLoop::Take(std::vector<Item>* items, bool* all_heard) {
  items->clear();
  MutexLock lock(&mutex_);
  while (!stopping_ && messages_.empty() && (calls_.empty() || next_.has_value())) {
    const absl::Duration wake = deps_.core->NextWake();
    if (wake == absl::InfiniteDuration()) {
      arrived_.Wait(&mutex_);
      continue;
    }
    const absl::Duration wait = wake - deps_.clock->Monotonic();
    if (wait <= absl::ZeroDuration()) break;
    arrived_.WaitFor(&mutex_, wait);
  }
  Move(&messages_, options_.batch_max, items);
  *all_heard = messages_.empty();
  if (!next_.has_value()) Move(&calls_, options_.batch_max, items);
  return !stopping_;
}

void DecisionLoop::Decide() {
  std::vector<Item> items;
  bool all_heard = false;
  while (Take(&items, &all_heard)) {
    const absl::Duration begun = deps_.clock->Monotonic();
    Batch batch;
    for (Item& item : items) {
      if (item.input.has_value()) {
        Apply(*item.input, std::move(item.done), &batch);
      } else {
        item.look(*deps_.core);
        batch.thens.push_back(std::move(item.then));
      }
    }
    // Time passes for the core only after every message that has arrived was seen.
    if (all_heard && deps_.clock->Monotonic() >= deps_.core->NextWake()) {
      Apply(TimePassed{}, nullptr, &batch);
    }
    deps_.metrics->Decided(items.size(), deps_.clock->Monotonic() - begun);
    if (!batch.empty() && !HandOver(std::move(batch))) return;
  }
}

void DecisionLoop::Apply(const Input& input, std::function<void(const Reply&)> done, Batch* batch) {
  Outputs outputs = deps_.core->Handle(CurrentTime(), input);
  Append(&batch->outputs.writes, std::move(outputs.writes));
  Append(&batch->outputs.events, std::move(outputs.events));
  Append(&batch->outputs.effects, std::move(outputs.effects));
  VLM_CHECK(outputs.replies.size() == (done != nullptr ? 1 : 0), "a call has exactly one answer");
  if (done != nullptr) batch->answers.emplace_back(std::move(done), std::move(outputs.replies.front()));
}

bool DecisionLoop::HandOver(Batch batch) {
  MutexLock lock(&mutex_);
  while (!stopping_ && next_.has_value() && next_->size() >= options_.messages_max) handed_.Wait(&mutex_);
  if (stopping_) return false;
  if (!next_.has_value()) next_.emplace();
  Append(&next_->outputs.writes, std::move(batch.outputs.writes));
  Append(&next_->outputs.events, std::move(batch.outputs.events));
  Append(&next_->outputs.effects, std::move(batch.outputs.effects));
  Append(&next_->answers, std::move(batch.answers));
  Append(&next_->thens, std::move(batch.thens));
  handed_.NotifyAll();
  return true;
}

void DecisionLoop::Sync() {
  while (true) {
    Batch batch;
    {
      MutexLock lock(&mutex_);
      while (!stopping_ && !next_.has_value()) handed_.Wait(&mutex_);
      if (stopping_) return;
      batch = *std::move(next_);
      next_.reset();
      handed_.NotifyAll();
      arrived_.NotifyAll();
    }
    if (!batch.outputs.writes.empty()) {
      const absl::Duration begun = deps_.clock->Monotonic();
      const absl::Status committed = deps_.store->Commit(batch.outputs.writes, store::Durability::kSynced);
      if (!committed.ok()) {
        deps_.on_store_failure(committed);
        return;
      }
      deps_.metrics->Committed(deps_.clock->Monotonic() - begun);
    }
    Release(&batch);
  }
}

void DecisionLoop::Release(Batch* batch) {
  deps_.metrics->Decisions(batch->outputs, CurrentTime());
  if (!batch->outputs.events.empty()) deps_.on_events(batch->outputs.events);
  for (auto& [done, reply] : batch->answers) done(reply);
  for (const Effect& effect : batch->outputs.effects) deps_.perform(effect);
  for (const auto& then : batch->thens) then();
}

}  // namespace vlm::coordinator
