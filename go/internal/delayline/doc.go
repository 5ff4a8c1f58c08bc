// Package delayline joins two network namespaces by a link with a fixed one-way delay, for tests and benches on machines
// without netem.
//
//	 namespace a                                            namespace b
//	TCP/IP - delay0 (TUN) ==> reader -> queue -> writer ==> (TUN) delay0 - TCP/IP
//	                      <== writer <- queue <- reader <==
//
// A packet is written to the other side Delay after it was read; a direction never reorders and never loses a packet
// until its queue is full (Options.Limit), and then drops the newest, as netem does. The package owns the two TUN devices,
// which vanish when the Line is closed. It works on Linux alone and needs CAP_NET_ADMIN.
package delayline
