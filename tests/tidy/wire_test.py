"""The check of the wire's types sees every shape of an rpc, and who names a type."""
import wire

PROTO = """
// rpc Old(OldRequest) returns (OldResponse);
service JobService {
  rpc GetJob(GetJobRequest) returns (GetJobResponse);
  rpc Watch ( WatchRequest )
      returns (stream  vlm.v1.WatchResponse) {}  // one line or more
  rpc Session(stream SessionRequest) returns (stream SessionResponse);
}
message GetJobRequest {
  message Inner {}
}
"""
TYPES = wire.rpc_types(PROTO)
assert TYPES == {"GetJobRequest": "GetJob", "GetJobResponse": "GetJob", "WatchRequest": "Watch",
                 "WatchResponse": "Watch", "SessionRequest": "Session", "SessionResponse": "Session"}, TYPES
assert wire.messages(PROTO) == {"GetJobRequest": "the wire"}
try:
    wire.rpc_types("service S { rpc Strange returns nothing; }")
    raise SystemExit("an rpc that is not understood went unseen")
except AssertionError:
    pass

NAMING = "Bytes<v1::GetJobRequest>(); v1::GetJobResponse a; WatchRequest(); &v1::WatchResponse::default_instance();"
assert wire.unnamed(TYPES, [NAMING, "v1::SessionRequest b; v1::SessionResponse c;"]) == []
assert wire.unnamed(TYPES, [NAMING, "v1::SessionRequest b;  // and SessionResponse"]) == [
    "SessionResponse, of Session: no tests/fuzz/*.cc names it"]
assert wire.unnamed({"GetJob": "X"}, ["GetJobRequest"]) == ["GetJob, of X: no tests/fuzz/*.cc names it"], "whole words"
