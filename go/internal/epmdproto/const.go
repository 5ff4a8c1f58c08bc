package epmdproto

import "errors"

// Opcodes: the first byte of a request or an answer.
const (
	OpAlive2     = 'x'
	OpPort2      = 'z'
	OpNames      = 'n'
	OpDump       = 'd'
	OpKill       = 'k'
	OpStop       = 's'
	OpHandover   = 'h'
	OpStatus     = 'j'
	OpUpgrade    = 'u'
	opAlive2Resp = 'y'
	opAlive2X    = 'v'
	opPort2Resp  = 'w'
	opHandover   = 'i'
)

const (
	// Extra of ALIVE2_REQ marks a node that takes handovers.
	Extra = "handover/1"
	// ProbeName is an alive name that no node can have. The answer to a request for it
	// tells which kind of EPMD answers.
	ProbeName = "@"
	// DefaultPort is the port of an EPMD that is not configured.
	DefaultPort = 4369

	// MaxRequest is the largest Length of HANDOVER_REQ: the opcode and 255
	// characters of 4 bytes.
	MaxRequest = 1 + maxNameBytes
	// MaxStockRequest is the largest Length that the stock EPMD reads.
	MaxStockRequest = 3*maxNameBytes - 3
	// MaxNameChars is the length of the longest alive name, in characters.
	MaxNameChars = 255
	// MaxExtra is the length of the longest Extra, in bytes.
	MaxExtra = maxNameBytes
	// SocketPrefix begins the name of every handover socket. 128 random bits
	// follow, as 32 hexadecimal digits.
	SocketPrefix = "handover-"
	// SocketNameSize is the size of such a name in bytes.
	SocketNameSize = len(SocketPrefix) + 32
	// MaxPass is the size of the larger form of PASS, AckSize that of ACK.
	MaxPass = passHeader + 16
	AckSize = 11

	maxNameBytes = 4 * MaxNameChars
	alive2Fixed  = 13
	passHeader   = 13
	passVersion  = 1
	wideCreation = 6
	// UpgradeOK is the new program's answer to UPGRADE_REQ. UpgradeNo, followed by the
	// reason, is that of the old one, which goes on.
	UpgradeOK = "OK"
	UpgradeNo = "NO"
	// NoCreation is the creation that goes with a refused ALIVE2_REQ.
	NoCreation = 99
)

// Errors of this package. Returned errors wrap one of them and add the details.
var (
	// ErrName: the alive name is empty, too long, not UTF-8 or has a NUL.
	ErrName = errors.New("epmdproto: bad node name")
	// ErrExtra: Extra is longer than MaxExtra.
	ErrExtra = errors.New("epmdproto: bad extra")
	// ErrAlive2: the lengths in an ALIVE2_REQ do not fit its size.
	ErrAlive2 = errors.New("epmdproto: bad ALIVE2_REQ")
	// ErrAnswer: the far end does not speak EPMD.
	ErrAnswer = errors.New("epmdproto: bad answer")
	// ErrSocketName: the message was complete, but the socket name in it is invalid.
	ErrSocketName = errors.New("epmdproto: bad socket name")
	// ErrFrame: the length is invalid, so the stream cannot be used any more.
	ErrFrame = errors.New("epmdproto: bad length on heartbeat")
	// ErrMessage: a channel message has another form or version.
	ErrMessage = errors.New("epmdproto: bad channel message")
)
