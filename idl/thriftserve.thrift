/*
 * thriftserve: the contract between a model server and its callers.
 *
 *   caller --PredictRequest--> Predict service --> model session --PredictResponse--> caller
 *
 * Two services. `Predict` is what applications call; `ModelControl` is what operators call, on a
 * port of its own. Field names follow TensorFlow Serving's where it has the same thing, the numbers
 * of DataType are TensorFlow's own, the numbers of ErrorCode are the canonical RPC codes.
 *
 * Compatibility: a field's id and type never change; new fields are optional; a number that was
 * once used is never used again.
 */

namespace py      thriftserve_idl
namespace java    io.thriftserve.idl
namespace go      thriftserve.idl
namespace cpp     thriftserve.idl
namespace js      thriftserve
namespace netstd  Thriftserve.Idl

/** The version of this contract. It grows when methods or fields are added. */
const string CONTRACT_VERSION = "1.1.0"

/** Element type of a tensor. The numbers are those of TensorFlow's DataType. */
enum DataType {
  /** 32-bit IEEE 754 float. */
  FLOAT    = 1,
  /** 64-bit IEEE 754 float. */
  DOUBLE   = 2,
  /** 32-bit signed integer. */
  INT32    = 3,
  /** 8-bit unsigned integer. */
  UINT8    = 4,
  /** 16-bit signed integer. */
  INT16    = 5,
  /** 8-bit signed integer. */
  INT8     = 6,
  /** Byte strings of any length each; carried in Tensor.strings, not in Tensor.content. */
  STRING   = 7,
  /** 64-bit signed integer. */
  INT64    = 9,
  /** One byte an element, 0 or 1. */
  BOOL     = 10,
  /** 16-bit brain float: the upper half of a 32-bit float. */
  BFLOAT16 = 14,
  /** 16-bit unsigned integer. */
  UINT16   = 17,
  /** 16-bit IEEE 754 float. */
  HALF     = 19,
  /** 32-bit unsigned integer. */
  UINT32   = 22,
  /** 64-bit unsigned integer. */
  UINT64   = 23,
}

/** What kind of failure a PredictError is. The numbers are the canonical RPC codes. */
enum ErrorCode {
  /** The caller gave the call up. */
  CANCELLED           = 1,
  /** A failure that fits no other code. */
  UNKNOWN             = 2,
  /** The request is wrong by itself, whatever the server's state: do not repeat it unchanged. */
  INVALID_ARGUMENT    = 3,
  /** The request's time was over before it was run; it had no effect. */
  DEADLINE_EXCEEDED   = 4,
  /** The model, version or signature named is not served here. */
  NOT_FOUND           = 5,
  /** What was to be made is there already. */
  ALREADY_EXISTS      = 6,
  /** The caller may not do this. */
  PERMISSION_DENIED   = 7,
  /** A queue, a connection limit or memory is full: try again after a pause, or elsewhere. */
  RESOURCE_EXHAUSTED  = 8,
  /** The server or model is not what the request needs: no version has the label named, say. */
  FAILED_PRECONDITION = 9,
  /** The operation was cut short by another one. */
  ABORTED             = 10,
  /** A value lies outside its range. */
  OUT_OF_RANGE        = 11,
  /** The server does not have this capability. */
  UNIMPLEMENTED       = 12,
  /** The server or the model failed: its log has the cause. */
  INTERNAL            = 13,
  /** Not now: the model is loading, or the server is stopping. Try again, or elsewhere. */
  UNAVAILABLE         = 14,
  /** Data was lost or damaged. */
  DATA_LOSS           = 15,
  /** The caller did not say who it is. */
  UNAUTHENTICATED     = 16,
}

/** How every method of both services fails. */
exception PredictError {
  /** What kind of failure it is; programs branch on this. */
  1: required ErrorCode code,
  /** What was wrong, with what value, and what was expected; people read this. */
  2: required string message,
  /** True where the same request may succeed later or on another server. */
  3: required bool retryable = false,
}

/**
 * An n-dimensional array.
 *
 * Every type but STRING carries its elements in `content`, row-major (C order) and little-endian;
 * the length of `content` is product(shape) x the element's size. STRING carries product(shape)
 * byte strings in `strings`, row-major.
 */
struct Tensor {
  /** Element type. */
  1: required DataType dtype,
  /** Size of each dimension; an empty list is a scalar. No size is negative. */
  2: required list<i64> shape,
  /** The elements, for every type but STRING. */
  3: optional binary content,
  /** The elements, for STRING only. */
  4: optional list<binary> strings,
}

/** Which model, which version of it, and which of its signatures. */
struct ModelSpec {
  /** The name that the model is served under. */
  1: required string name,
  /** An exact version. Unset, with no label: the newest one available. */
  2: optional i64 version,
  /** A label that an operator has pointed at a version ("stable", "canary"). Not with `version`. */
  3: optional string version_label,
  /** The signature to run. Unset: "serving_default". */
  4: optional string signature_name,
}

/** Where a request's time went, as the server saw it. */
struct Timing {
  /** Microseconds from the request's arrival until its run began. */
  1: required i64 queue_us,
  /** Microseconds in the model's session. */
  2: required i64 compute_us,
  /** Rows in the run that answered this request, those of other requests included. */
  3: required i32 batch_size,
  /** Process id of the worker that ran it. */
  4: required i32 worker_pid,
}

/** A request to run one signature of one model. */
struct PredictRequest {
  /** What to run. */
  1: required ModelSpec model_spec,
  /** One tensor for each input of the signature, by the input's name. */
  2: required map<string, Tensor> inputs,
  /** Names of the outputs wanted. Unset or empty: all of them. */
  3: optional list<string> output_filter,
  /** Milliseconds from the request's arrival within which it must start to run. Unset or 0: no limit. */
  4: optional i32 timeout_ms,
  /** The caller's own name for this request; it stands in the server's log lines about it. */
  5: optional string request_id,
  /** True: inputs of other shapes than the signature declares are run as they are, by themselves, and the model's
   *  graph decides whether they fit. Models that have no graph hold to the signature. */
  6: optional bool free_shapes,
}

/** The answer to a PredictRequest. */
struct PredictResponse {
  /** What was run: name, version and signature, each resolved. */
  1: required ModelSpec model_spec,
  /** One tensor for each output asked for, by the output's name. */
  2: required map<string, Tensor> outputs,
  /** Where the time went. */
  3: optional Timing timing,
}

/** A request to classify images. */
struct ClassifyRequest {
  /** The model; its signature takes one image input and gives one score per class. */
  1: required ModelSpec model_spec,
  /** Encoded images, one each (JPEG, PNG, GIF, BMP, WebP, TIFF); they are run as one batch. */
  2: required list<binary> images,
  /** How many classes to answer for each image, best first. Unset: 5. */
  3: optional i32 top_k,
  /** Milliseconds from the request's arrival within which it must start to run. Unset or 0: no limit. */
  4: optional i32 timeout_ms,
  /** The caller's own name for this request. */
  5: optional string request_id,
}

/** One class of one image. */
struct Classification {
  /** The class's name in the model's labels; its number as text where the model has none. */
  1: required string label,
  /** The class's score as the model gives it (a probability where it ends in a softmax). */
  2: required double score,
  /** The class's number: its place in the model's output. */
  3: required i32 class_id,
}

/** The classes of one image. */
struct ImageClassification {
  /** Best first; at most `top_k`. */
  1: required list<Classification> classes,
}

/** The answer to a ClassifyRequest. */
struct ClassifyResponse {
  /** What was run. */
  1: required ModelSpec model_spec,
  /** One entry for each image of the request, in its order. */
  2: required list<ImageClassification> results,
  /** Where the time went. */
  3: optional Timing timing,
}

/** A request to find objects in images. */
struct DetectRequest {
  /** The model; its signature has the outputs of the TensorFlow object-detection API. */
  1: required ModelSpec model_spec,
  /** Encoded images, one each. */
  2: required list<binary> images,
  /** Boxes below this score are left out. Unset: 0.5. */
  3: optional double min_score,
  /** At most this many boxes an image, best first. Unset: 100. */
  4: optional i32 max_detections,
  /** Milliseconds from the request's arrival within which it must start to run. Unset or 0: no limit. */
  5: optional i32 timeout_ms,
  /** The caller's own name for this request. */
  6: optional string request_id,
}

/** A box in an image: fractions of its height and width, 0 to 1, from the upper left corner. */
struct BoundingBox {
  /** Upper edge. */
  1: required double y_min,
  /** Left edge. */
  2: required double x_min,
  /** Lower edge. */
  3: required double y_max,
  /** Right edge. */
  4: required double x_max,
}

/** One object found in one image. */
struct Detection {
  /** The class's name in the model's labels; its number as text where the model has none. */
  1: required string label,
  /** The score, 0 to 1. */
  2: required double score,
  /** The class's number as the model gives it (the object-detection API counts from 1). */
  3: required i32 class_id,
  /** Where it is. */
  4: required BoundingBox box,
}

/** What was found in one image. */
struct ImageDetections {
  /** Best first. */
  1: required list<Detection> detections,
  /** Width of the image in pixels, upright (after its EXIF orientation was applied). */
  2: required i32 width,
  /** Height of the image in pixels, upright. */
  3: required i32 height,
}

/** The answer to a DetectRequest. */
struct DetectResponse {
  /** What was run. */
  1: required ModelSpec model_spec,
  /** One entry for each image of the request, in its order. */
  2: required list<ImageDetections> results,
  /** Where the time went. */
  3: optional Timing timing,
}

/** Name, type and shape of one input or output of a signature. */
struct TensorInfo {
  /** The name that requests and responses use. */
  1: required string name,
  /** Element type. */
  2: required DataType dtype,
  /** Size of each dimension, -1 where any size will do. Meaningless where `unknown_rank` is true. */
  3: required list<i64> shape,
  /** True where the model accepts any number of dimensions. */
  4: required bool unknown_rank = false,
  /** The tensor's name in the model's graph, like "dense/Softmax:0"; unset where the model has no graph. */
  5: optional string tensor_name,
}

/** One function that a model offers. */
struct SignatureInfo {
  /** The name to put into ModelSpec.signature_name. */
  1: required string name,
  /** TensorFlow's method name ("tensorflow/serving/predict"); empty for Python models. */
  2: required string method_name,
  /** The inputs, by name. */
  3: required map<string, TensorInfo> inputs,
  /** The outputs, by name. */
  4: required map<string, TensorInfo> outputs,
}

/** What a version of a model offers. */
struct ModelMetadata {
  /** Name and version described. */
  1: required ModelSpec model_spec,
  /** "tensorflow" or "python". */
  2: required string platform,
  /** Every signature, by name. */
  3: required map<string, SignatureInfo> signatures,
  /** Class names, by class number; empty where the model has none. */
  4: required list<string> labels,
}

/** The states of a version, in the order in which it passes through them. */
enum ModelState {
  /** Known, not yet begun to load. */
  START     = 10,
  /** Loading or warming up. */
  LOADING   = 20,
  /** Answering requests. */
  AVAILABLE = 30,
  /** Taking no new requests; finishing the old ones. */
  UNLOADING = 40,
  /** Gone, or failed: ModelVersionStatus.error_code tells which. (END is a reserved word of Thrift.) */
  ENDED     = 50,
}

/** The state of one version of a model. */
struct ModelVersionStatus {
  /** The version. */
  1: required i64 version,
  /** Its state. */
  2: required ModelState state,
  /** Why it ended, where it failed. Unset: no failure. */
  3: optional ErrorCode error_code,
  /** The failure in words; empty where there was none. */
  4: required string error_message = "",
  /** Labels that point at it. */
  5: required list<string> labels = [],
  /** How it is served, or how far its fetch is, for people: "frozen", "downloading 41.0 of 120.0 MiB (34 %)". */
  6: optional string note,
  /** Milliseconds that loading and warming it up took, in the worker that did so last. Unset: none has. */
  7: optional double load_time_ms,
}

/** The state of every version of one model. */
struct ModelStatus {
  /** The model's name. */
  1: required string name,
  /** Its versions, newest first. */
  2: required list<ModelVersionStatus> versions,
  /** How often a version of the model has come into each state since the server started. Unset: not counted. */
  3: optional map<ModelState, i64> transitions,
}

/** The state of a server. */
enum ServerState {
  /** Not every worker has its models yet. */
  STARTING = 1,
  /** Every worker is ready. */
  SERVING  = 2,
  /** Finishing what is in flight; no new connections. */
  DRAINING = 3,
  /** Serving, with at least one worker down or being replaced. */
  DEGRADED = 4,
}

/** The state of one worker process. */
enum WorkerState {
  /** Loading its models. */
  STARTING = 1,
  /** Ready, nothing in hand. */
  IDLE     = 2,
  /** Running at least one request. */
  BUSY     = 3,
  /** Finishing what it has; takes nothing new. */
  DRAINING = 4,
}

/** One worker process, as its own counters and the operating system tell. */
struct WorkerStatus {
  /** Its place among the workers, from 0. */
  1: required i32 index,
  /** Process id: always one that can be signalled. */
  2: required i32 pid,
  /** What it is doing. */
  3: required WorkerState state,
  /** The device that its sessions run on: "cpu", "gpu:0", …. */
  4: required string device,
  /** Resident memory in bytes; 0 where it could not be read. */
  5: required i64 rss_bytes,
  /** CPU seconds (user and system) since it started. */
  6: required double cpu_s,
  /** Seconds since it started. */
  7: required double uptime_s,
  /** Requests answered, errors included. */
  8: required i64 requests,
  /** Requests answered with an error. */
  9: required i64 errors,
  /** Requests that it is running now. */
  10: required i32 in_flight,
  /** Connections that it holds open now. */
  11: required i32 connections,
  /** Times that a worker in this place had to be replaced. */
  12: required i32 restarts,
  /** What it does: "worker" runs requests, "front" takes connections and queues requests, "keeper" decides what is
      served and answers operators, "gateway" answers HTTP. Unset: "worker". */
  13: optional string role,
  /** What else there is to say of it, for people. Unset: nothing. */
  14: optional string note,
}

/**
 * How one figure of the requests answered is distributed: how many of them had a value in which bucket.
 *
 * Bucket k counts the values above bounds[k - 1] up to and with bounds[k]; the last one counts those above every bound.
 */
struct Histogram {
  /** What is counted, in the terms of Timing: "queue_time", "compute_time", "batch_size". */
  1: required string name,
  /** Unit of the bounds and of the sum: "us" or "rows". */
  2: required string unit,
  /** Upper bounds of the buckets, inclusive, ascending. */
  3: required list<i64> bounds,
  /** Requests in each bucket since the server started: one number more than there are bounds. */
  4: required list<i64> counts,
  /** All values added up; divided by the sum of the counts it is their mean. */
  5: required i64 sum,
}

/** A server and its workers. */
struct ServerStatus {
  /** The server's state. */
  1: required ServerState state,
  /** The value of --server-type. */
  2: required string server_type,
  /** Seconds since the server started. */
  3: required double uptime_s,
  /** thriftserve's version. */
  4: required string version,
  /** Process id of the parent process: signal this one. */
  5: required i32 pid,
  /** Every worker, front, keeper and gateway; one whose process is still to be made is left out until it is there. */
  6: required list<WorkerStatus> workers,
  /** Names of the models served. */
  7: required list<string> models,
  /** Requests answered by workers that have ended. */
  8: required i64 past_requests,
  /** Requests answered with an error by workers that have ended. */
  9: required i64 past_errors,
  /** Connections and requests refused because a limit was reached. */
  10: required i64 refused,
  /** Figures of the requests answered by the whole server, those of workers that have ended included. */
  11: optional list<Histogram> histograms,
  /** Requests that wait for a worker now. Unset: the server type has no queue of requests. */
  12: optional i64 queued,
  /** Bytes of those requests. */
  13: optional i64 queued_bytes,
}

/** What applications call. */
service Predict {
  /** Does nothing: for health checks. It answers while the server takes requests. */
  void ping() throws (1: PredictError error),

  /** Runs one signature of one model. */
  PredictResponse predict(1: PredictRequest request) throws (1: PredictError error),

  /** Classifies encoded images: decodes, resizes and scales them, runs the model, names the best classes. */
  ClassifyResponse classify(1: ClassifyRequest request) throws (1: PredictError error),

  /** Finds objects in encoded images. */
  DetectResponse detect(1: DetectRequest request) throws (1: PredictError error),

  /** The signatures and labels of a model. */
  ModelMetadata getModelMetadata(1: ModelSpec model_spec) throws (1: PredictError error),

  /** The state of every version of a model, or of the one version named. */
  ModelStatus getModelStatus(1: ModelSpec model_spec) throws (1: PredictError error),

  /** The state of every version of every model. */
  list<ModelStatus> listModels() throws (1: PredictError error),

  /** The server and each of its workers. */
  ServerStatus getServerStatus() throws (1: PredictError error),
}

/** A request to fetch and serve a model. */
struct LoadModelRequest {
  /** The name to serve it under. */
  1: required string name,
  /** A base path, or a URL (http, https, file) of a packed model. */
  2: required string source,
  /**
   * The version. Unset: of a base path the newest; what a URL has becomes one more than the newest.
   */
  3: optional i64 version,
  /** SHA-256 of the download, in hexadecimal. Unset: not checked. */
  4: optional string sha256,
}

/** A request to point a label at a version. */
struct SetVersionLabelRequest {
  /** The model's name. */
  1: required string name,
  /** The label. */
  2: required string label,
  /** The version. Unset: the label is removed. */
  3: optional i64 version,
  /** Allows a version that is not available yet. */
  4: required bool allow_unavailable = false,
}

/**
 * What operators call. It listens on a port of its own.
 *
 * A server that was given a token answers only calls that carry it, and every other one with UNAUTHENTICATED; one that
 * was given none does not look at it.
 */
service ModelControl {
  /** Reads the configuration again, as SIGHUP does. It answers when the reading has been begun. */
  void reloadConfig(1: string token) throws (1: PredictError error),

  /** Fetches a model, where it lies under a URL, and serves it. It answers when that has been begun. */
  ModelStatus loadModel(1: LoadModelRequest request, 2: string token) throws (1: PredictError error),

  /** Stops serving a model, or the one version named; ends what is being fetched of it. */
  ModelStatus unloadModel(1: ModelSpec model_spec, 2: string token) throws (1: PredictError error),

  /** Points a label at a version, or removes it. */
  ModelStatus setVersionLabel(1: SetVersionLabelRequest request, 2: string token) throws (1: PredictError error),

  /** What became of it: the state of every version of a model, those that are being fetched included. */
  ModelStatus getLoadStatus(1: ModelSpec model_spec, 2: string token) throws (1: PredictError error),
}
